"""Latent quantization: each channel takes one of a few learned values (QLAE, arXiv 2305.18378).

    code_i(z) = argmin_k |z_i - v_ik|,   q_i = v_ik,   loss = mean (sg(z) - q)^2 and mean (z - sg(q))^2

Every channel has values of its own (or shares one set, the paper's ablation), so that tokens are
combinations of few numbers; with strong weight decay on the network (never on the values) the channels line
up with the factors of the data. Of equally near values the first is taken.

The class in `vector-quantize-pytorch` differs in three ways, all available here: its losses compare the
input with the projected output (`compare="outputs"`), which gives the values no gradient; several groups of
channels share their values; and its joint index is computed from the values as if they were still on their
first grid, see `analytic_index`.

    >>> import jax
    >>> from jaxtok.quantize.latent import LatentQuantizer
    >>> quantizer = LatentQuantizer(levels=(10, 10, 5), width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, quantizer.space.size, sorted(out.losses)
    ((4, 8, 3), 500, ['commitment', 'values'])
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import Array, CodeSpace, Quantized
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, masked_mean, straight_through


def nearest_value(x: Float[jax.Array, "*batch Q"], values: Float[Array, "Q V"]) -> Int[jax.Array, "*batch Q"]:
    """Position of the nearest value of each channel, int32; the first of equals. Infinity is never taken."""
    return jnp.argmin(jnp.abs(x[..., None] - values), axis=-1).astype(jnp.int32)


def values_at(values: Float[Array, "Q V"], codes: Int[jax.Array, "*batch Q"]) -> Float[jax.Array, "*batch Q"]:
    """The value of each channel at its code."""
    return jnp.asarray(values)[jnp.arange(codes.shape[-1]), codes]


def first_values(levels: int, spread: Literal["grid", "ends"] = "grid") -> Float[np.ndarray, " L"]:
    """Where values begin, float32.

    Args:
      levels: L, how many.
      spread: "ends" spreads them evenly over [-1/2, 1/2]; "grid" does so for odd numbers, and takes
        (0, ..., L - 1) / L - 1/2 for even ones, so that 0 is among them.
    """
    if spread == "ends" or levels % 2:
        return np.linspace(-0.5, 0.5, levels).astype(np.float32)
    return (np.arange(levels) / levels - 0.5).astype(np.float32)


def analytic_index(values: Float[Array, "*batch Q"], levels: tuple[int, ...]) -> Int[jax.Array, "*batch"]:
    """Joint index as `vector-quantize-pytorch` computes it from quantized values, int32.

        index = trunc(sum_i (2 values_i + 1) floor(L_i / 2) prod_{j<i} L_j)

    Right as long as values, 1 / (2 floor(L / 2)) apart, lie on the first grid ("grid" of `first_values`);
    once they have moved, different codes may get the same index. `CodeSpace.join` of the codes is always
    right, and the same on the grid.
    """
    half = np.asarray(levels, np.int64) // 2
    basis = np.cumprod([1, *levels[:-1]])
    digits = values * (2 * half).astype(np.float32) + half.astype(np.float32)
    return jnp.sum(digits * basis.astype(np.float32), axis=-1).astype(jnp.int32)


def analytic_values(index: Int[Array, "*batch"], levels: tuple[int, ...]) -> Float[jax.Array, "*batch Q"]:
    """Values on the first grid of a joint index; the inverse of `analytic_index` there."""
    half = np.asarray(levels, np.int32) // 2
    return (jnp.asarray(CodeSpace(levels).split(index)) - half) / half.astype(np.float32) / 2


class LatentQuantizer(FixedStateQuantizer):
    """Channels with learned values.

    Attributes:
      levels: number of values of each channel.
      width: D of the features; 0 for as many as there are channels, otherwise linear maps lead in and out
        when they differ.
      groups: copies of the channels, side by side, with the same values.
      commitment: weight of `mean (z - sg(q))^2`.
      values_weight: of `mean (sg(z) - q)^2`, which moves the values.
      learn_values: whether the values are parameters, or stay.
      share_values: one set of values for all channels, which then have the same number of them.
      compare: what the losses compare: "latents" before and after quantization, as in the paper, or the
        module's input with its "outputs".
      spread: where values begin, see `first_values`; the paper uses "ends".
      project: "auto" when widths differ, or "always".
    """

    levels: tuple[int, ...]
    width: int = 0
    groups: int = 1
    commitment: float = 0.01
    values_weight: float = 0.01
    learn_values: bool = True
    share_values: bool = False
    compare: Literal["latents", "outputs"] = "latents"
    spread: Literal["grid", "ends"] = "ends"
    project: Literal["auto", "always"] = "auto"

    @property
    def space(self) -> CodeSpace:
        """One slot per channel."""
        return CodeSpace(tuple(self.levels) * self.groups)

    def setup(self):
        if self.share_values and len(set(self.levels)) > 1:
            raise ValueError(
                f"share_values=True needs the same number of values everywhere, got levels={self.levels}"
            )
        slots = self.space.slots
        self.projected = self.project == "always" or (self.width or slots) != slots
        if self.projected:
            self.inward, self.outward = linear(slots), linear(self.width or slots)
        sets = self.levels[:1] if self.share_values else self.levels
        starts = [first_values(n, self.spread) for n in sets]
        if self.learn_values:
            make = lambda key, start: jnp.asarray(start)
            self.sets = [self.param(f"values_{i}", make, start) for i, start in enumerate(starts)]
        else:
            self.sets = [jnp.asarray(start) for start in starts]

    def values(self) -> Float[jax.Array, "Q V"]:
        """Values of all channels, filled up with infinity where there are fewer than in others."""
        most = max(self.levels)
        padded = [jnp.pad(jnp.asarray(v), (0, most - len(v)), constant_values=jnp.inf) for v in self.sets]
        return jnp.stack(padded * (len(self.levels) if self.share_values else 1) * self.groups)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the weighted losses "commitment" and "values"; counts as
          `jaxtok.quantize.counting` gives them.
        """
        del train, key, temperature
        z = masked(z.astype(jnp.float32), mask)
        x, values = self._inner(z), self.values()
        codes = nearest_value(x, values)
        chosen = values_at(values, codes)
        out = self._outer(straight_through(x, chosen))
        before, after = (x, chosen) if self.compare == "latents" else (z, out)
        stop = jax.lax.stop_gradient
        losses = {
            "commitment": self.commitment * masked_mean(jnp.square(before - stop(after)), mask),
            "values": self.values_weight * masked_mean(jnp.square(stop(before) - after), mask),
        }
        return Quantized(
            masked(out, mask), masked(codes, mask), losses, joint_counts(codes, self.levels, mask)
        )

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Positions of the nearest values, int32; 0 where the mask is False."""
        return masked(nearest_value(self._inner(z.astype(jnp.float32)), self.values()), mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        return self._outer(values_at(self.values(), codes))

    def _inner(self, z):
        return self.inward(z) if self.projected else z

    def _outer(self, values):
        return self.outward(values) if self.projected else values
