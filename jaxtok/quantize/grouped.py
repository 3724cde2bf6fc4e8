"""Groups of channels with a quantizer each, side by side (HiFi-Codec, arXiv 2305.02765).

>>> import jax
>>> from jaxtok.quantize.grouped import GroupedQuantizer
>>> from jaxtok.quantize.residual import residual_vq
>>> quantizer = GroupedQuantizer(tuple(residual_vq(depth=3, codes=16, width=4) for _ in range(2)))
>>> z = jax.random.normal(jax.random.key(0), (2, 5, 8))
>>> variables = quantizer.init(jax.random.key(1), z)
>>> quantizer.apply(variables, z).codes.shape, quantizer.space.bits
((2, 5, 6), 24.0)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized


class GroupedQuantizer(nn.Module):
    """Groups of channels with a quantizer each, side by side (HiFi-Codec, arXiv 2305.02765).

    The slots of the first group come first.

    Attributes:
      quantizers: one per group.
    """

    quantizers: tuple[nn.Module, ...]

    @property
    def space(self) -> CodeSpace:
        """The slots of all groups, group by group."""
        return CodeSpace(tuple(n for q in self.quantizers for n in q.space.levels))  # pyright: ignore

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
        **options: Any,
    ) -> Quantized:
        """See `ResidualQuantizer`; losses of the groups are added up.

        Groups draw noise of their own, but keep the same number of depths.
        """
        keys = None
        if key is not None or (train and self.has_rng("quantizer")):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
        if train and keys is not None and options.get("kept") is None and self._drops:
            options["kept"] = self.quantizers[0].draw_kept(keys, z.shape[0])  # pyright: ignore
        outs = [
            quantizer(  # pyright: ignore
                part,
                train=train,
                key=None if keys is None else random.fold(keys, i),
                temperature=temperature,
                mask=mask,
                **options,
            )
            for i, (quantizer, part) in enumerate(zip(self.quantizers, self._split(z), strict=True))
        ]
        losses: dict[str, Any] = {}
        for out in outs:
            for name, value in out.losses.items():
                losses[name] = losses.get(name, 0.0) + value
        return Quantized(
            jnp.concatenate([out.values for out in outs], axis=-1),
            jnp.concatenate([out.codes for out in outs], axis=-1),
            losses,
            {f"quantizers_{i}": out.statistics for i, out in enumerate(outs)},
        )

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Codes of all groups, int32."""
        pairs = zip(self.quantizers, self._split(z), strict=True)
        return jnp.concatenate([quantizer.encode(part, mask) for quantizer, part in pairs], axis=-1)  # pyright: ignore

    def decode(self, codes: Int[jax.Array, "B N Q"], *args: Any) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        parts = jnp.split(codes, np.cumsum([q.space.slots for q in self.quantizers])[:-1], axis=-1)  # pyright: ignore
        return jnp.concatenate(
            [q.decode(part, *args) for q, part in zip(self.quantizers, parts, strict=True)],
            axis=-1,  # pyright: ignore
        )

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """Every group's own update."""
        new = dict(state)
        for i, quantizer in enumerate(self.quantizers):
            name = f"quantizers_{i}"
            if name in new:
                new[name] = quantizer.update(new[name], statistics[name], jax.random.fold_in(key, i))  # pyright: ignore
        return new

    def initialise(
        self, state: Any, z: Float[jax.Array, "B N D"], key: jax.Array, mask: jax.Array | None = None
    ) -> Any:
        """State after the data-dependent initialisation of every group that has one."""
        new = dict(state)
        for i, (quantizer, part) in enumerate(zip(self.quantizers, self._split(z), strict=True)):
            name = f"quantizers_{i}"
            if name in new and hasattr(quantizer, "initialise"):
                new[name] = quantizer.initialise(new[name], part, jax.random.fold_in(key, i), mask)  # pyright: ignore
        return new

    @property
    def _drops(self):
        return getattr(self.quantizers[0], "dropout", False)

    def _split(self, z):
        if z.shape[-1] % len(self.quantizers):
            raise ValueError(f"{z.shape[-1]} channels cannot be split into {len(self.quantizers)} groups")
        return jnp.split(z, len(self.quantizers), axis=-1)
