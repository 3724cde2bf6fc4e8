"""Residual quantization: each depth quantizes what the earlier ones left over.

    r_0 = x,   q_i = Q_i(r_i),   r_{i+1} = r_i - sg(q_i),   out = sum_i q_i

(SoundStream, arXiv 2107.03312; RQ-VAE, arXiv 2203.01941). The depths are any quantizers of this package: vector
quantizers with codebooks of their own or a shared one, look-up free ones with scales 2^-i, scalar ones with
scales L^-i. The slots of all depths stand one behind the other; a prefix of them is a coarser code.

    >>> import jax
    >>> from jaxtok.quantize.residual import residual_vq
    >>> quantizer = residual_vq(depth=4, codes=64, width=16, learning="ema", dropout=True)
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z, train=True, key=jax.random.key(2))
    >>> out.codes.shape, quantizer.space.bits
    ((2, 8, 4), 24.0)
    >>> coarse = quantizer.apply(variables, out.codes, 2, method="decode")
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.beam import beam_codes
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.lfq import LFQ
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import directional, masked
from jaxtok.quantize.vq import VectorQuantizer

Scales = tuple[tuple[float, ...], ...]


def kept_depths(
    uniforms: Float[jax.Array, "*batch"], depth: int, at_least: int = 1, multiple_of: int = 1
) -> Int[jax.Array, "*batch"]:
    """Numbers of depths to keep, uniform over `at_least` .. depth, rounded up to a multiple.

    Args:
      uniforms: in [0, 1).
      depth: of the stack.
      at_least: smallest number.
      multiple_of: what it is rounded up to a multiple of (at most `depth`).
    """
    kept = at_least + jnp.floor(uniforms * (depth - at_least + 1)).astype(jnp.int32)
    return round_depths(kept, depth, multiple_of)


def round_depths(kept: jax.Array, depth: int, multiple_of: int) -> jax.Array:
    """Numbers of depths rounded up to a multiple, at most `depth`."""
    return jnp.minimum(-(-kept // multiple_of) * multiple_of, depth)


class ResidualQuantizer(nn.Module):
    """A stack of quantizers on residuals.

    Attributes:
      quantizers: one per depth, all of the same width; one alone is used at every depth (a shared codebook).
      depth: number of depths; 0 for as many as there are quantizers.
      width: D of the features; 0 for the quantizers' own, otherwise linear maps lead in and out.
      dropout: in training, keep only the first depths, a random number of them.
      at_least: smallest number of depths that dropout keeps.
      multiple_of: dropout keeps a multiple of this many.
      dropout_per: one number for the whole "batch" (as in the reference), or one per "example".
      gradient_fraction: how much of the gradient through an earlier depth's code reaches it from later depths.
      routing: "each" depth routes its own gradient; "directional" perturbs the sum instead (DiVeQ), with codebooks
        learned by gradient.
      perturbation: variance of that noise.
      scales: per depth and channel, residuals are divided by it before and codes multiplied by it after; () for 1.
      beam: paths that a search over the depths keeps; 1 for the greedy choice. Needs Euclidean vector quantizers, and
        K scores for a block of tokens.
      pre_clamp: if not empty, x becomes c tanh(x / c) with these c per channel (or one for all) first.
    """

    quantizers: tuple[nn.Module, ...]
    depth: int = 0
    width: int = 0
    dropout: bool = False
    at_least: int = 1
    multiple_of: int = 1
    dropout_per: Literal["batch", "example"] = "batch"
    gradient_fraction: float = 0.0
    routing: Literal["each", "directional"] = "each"
    perturbation: float = 5e-3
    scales: Scales = ()
    pre_clamp: tuple[float, ...] = ()
    beam: int = 1

    @property
    def depths(self) -> int:
        """Number of depths."""
        return self.depth or len(self.quantizers)

    @property
    def shared(self) -> bool:
        """Whether one quantizer serves all depths."""
        return len(self.quantizers) == 1 and self.depths > 1

    @property
    def space(self) -> CodeSpace:
        """The slots of all depths, coarsest first."""
        return CodeSpace(tuple(n for i in range(self.depths) for n in self._at(i).space.levels))

    @property
    def slots_per_depth(self) -> int:
        """Slots of one depth."""
        return self._at(0).space.slots

    def _at(self, i: int) -> Any:
        return self.quantizers[0 if self.shared else i]

    def setup(self):
        if len(self.quantizers) not in (1, self.depths):
            raise ValueError(
                f"{len(self.quantizers)} quantizers for depth={self.depths}; give one, or one per depth"
            )
        if not 1 <= self.at_least <= self.depths:
            raise ValueError(f"at_least={self.at_least} depths of {self.depths} cannot be kept")
        inner = inner_width(self._at(0))
        self.projected = bool(self.width) and self.width != inner
        if self.projected:
            self.inward, self.outward = linear(inner), linear(self.width)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
        kept: jax.Array | int | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: drop depths and draw noise where the attributes say so.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: of the depths' sampling.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.
          kept: number of depths to keep, int32 [] or [B]; default all, or drawn in training with `dropout`. Dropped
            depths have code 0 (see `levels_mask`), no value, no loss and no statistics.

        Returns:
          `Quantized` with the losses of the depths added up, and their statistics by name ("quantizers_0", ...).
        """
        keys = None
        if key is not None or (train and self.has_rng("quantizer")):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
        if kept is None and train and self.dropout:
            if keys is None:
                raise ValueError("dropout of depths in training needs a key, or a 'quantizer' stream in rngs")
            kept = self._draw(keys)
        x = self._inner(z)
        residual, total, codes, losses, statistics = x, jnp.zeros_like(x), [], {}, {}
        found = self._search(x) if self.beam > 1 else None
        for i in range(self.depths):
            here = self._mask(i, mask, kept, z.shape[:2])
            scale = self._scale(i)
            child_key = None if keys is None else random.fold(keys, i)
            if found is None:
                out = self._at(i)(
                    residual / scale, train=train, key=child_key, temperature=temperature, mask=here
                )
            else:
                out = self._at(i).quantize(self._at(i).inner(residual), found[..., i : i + 1], mask=here)
            if self.routing == "directional" and train:
                q = masked(self._at(i).decode(out.codes), here) * scale
            else:
                q = out.values * scale
            constant = jax.lax.stop_gradient(q)
            f = self.gradient_fraction
            residual = residual - (f * q + (1 - f) * constant if f else constant)
            total = total + q
            codes.append(out.codes)
            for name, value in out.losses.items():
                losses[name] = losses.get(name, 0.0) + value
            statistics[f"quantizers_{i}"] = out.statistics
        if self.routing == "directional" and train:
            if keys is None:
                raise ValueError(
                    "directional routing in training needs a key, or a 'quantizer' stream in rngs"
                )
            total = directional(
                x, total, random.normal(random.fold(keys, self.depths), x.shape[1:]), self.perturbation
            )
        return Quantized(
            masked(self._outer(total), mask), jnp.concatenate(codes, axis=-1), losses, statistics
        )

    def encode(
        self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None, depths: int | None = None
    ) -> Int[jax.Array, "B N Q"]:
        """Codes, int32, of the first `depths` depths (default all)."""
        residual, codes = self._inner(z), []
        if self.beam > 1:
            return masked(self._search(residual)[..., :depths], mask)
        for i in range(self.depths if depths is None else depths):
            codes.append(self._at(i).encode(residual / self._scale(i), mask))
            residual = residual - self._value(i, codes[-1])
        return jnp.concatenate(codes, axis=-1)

    def decode(
        self, codes: Int[jax.Array, "B N Q"], kept: jax.Array | int | None = None
    ) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32.

        Args:
          codes: of all depths, or of the first ones.
          kept: number of depths to use, int or int32 [B]; default all that there are.
        """
        return self._outer(self._sum(codes, kept))

    def partial_sums(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "Q B N d"]:
        """The (unprojected) code of each depth, so that a running sum refines the value."""
        width = self.slots_per_depth
        depths = codes.shape[-1] // width
        return jnp.stack([self._value(i, codes[..., i * width : (i + 1) * width]) for i in range(depths)])

    @nn.nowrap
    def levels_mask(self, kept: jax.Array, tokens: int) -> jax.Array:
        """bool [B, N, Q] for `Latents.mask`: which slots remain when `kept` [B] depths are kept."""
        depth = jnp.arange(self.depths * self.slots_per_depth) // self.slots_per_depth
        return jnp.broadcast_to((depth < kept[:, None])[:, None], (kept.shape[0], tokens, depth.size))

    def initialise(
        self, state: Any, z: Float[jax.Array, "B N D"], key: jax.Array, mask: jax.Array | None = None
    ) -> Any:
        """State after the data-dependent initialisation of every depth, on the residuals that the depths before it
        leave once they are initialised.

        Depths without an `initialise` of their own pass through. Vector quantizers with a shared codebook are
        initialised on the features alone.
        """
        residual, state = self._inner(z), dict(state)
        for i in range(1 if self.shared else self.depths):
            child, name = self._at(i), f"quantizers_{i}"
            if name in state and hasattr(child, "initialise"):
                state[name] = child.initialise(
                    state[name], residual / self._scale(i), jax.random.fold_in(key, i), mask
                )
                own = {"params": child.variables.get("params", {}), "quantizer": state[name]}
                detached = child.clone(parent=None)
                codes = detached.apply(own, residual / self._scale(i), method="encode")
                residual = residual - detached.apply(own, codes, method="decode") * self._scale(i)
            else:
                residual = residual - self._value(i, child.encode(residual / self._scale(i)))
        return state

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """Every depth's own update. A shared codebook moves once per depth, and is revived once."""
        new = dict(state)
        for i in range(self.depths):
            child, name = self._at(i), f"quantizers_{0 if self.shared else i}"
            if name not in new:
                continue
            if self.shared and i < self.depths - 1 and getattr(child, "revive_below", 0):
                child = child.clone(revive_below=0.0)
            new[name] = child.update(new[name], statistics[f"quantizers_{i}"], jax.random.fold_in(key, i))
        return new

    def _search(self, x):
        books = [self._at(i) for i in range(self.depths)]
        plain = all(
            isinstance(book, VectorQuantizer)
            and (book.metric, book.slots, book.projected, book.affine) == ("euclidean", 1, False, False)
            for book in books
        )
        if not plain or self.scales:
            raise ValueError(
                f"beam={self.beam} needs Euclidean vector quantizers of one slot, without projections"
            )
        flat = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1])
        codebooks = [jax.lax.stop_gradient(book.codebook) for book in books]
        return beam_codes(flat, codebooks, self.beam).reshape(*x.shape[:2], -1)

    def _draw(self, keys):
        # One number for the batch is the first example's, whatever the micro-batch or device it is in.
        uniforms = random.uniform(random.fold(keys, self.depths + 1), ())
        kept = kept_depths(uniforms, self.depths, self.at_least, self.multiple_of)
        return kept[0] if self.dropout_per == "batch" else kept

    def _mask(self, i, mask, kept, shape):
        if kept is None:
            return mask
        here = jnp.broadcast_to(jnp.reshape(i < jnp.asarray(kept), (-1, 1)), shape)
        return here if mask is None else here & mask

    def _scale(self, i):
        return np.asarray(self.scales[i], np.float32) if self.scales else 1.0

    def _value(self, i, codes):
        return self._at(i).decode(codes) * self._scale(i)

    def _sum(self, codes, kept=None):
        width, total = self.slots_per_depth, 0.0
        for i in range(codes.shape[-1] // width):
            value = self._value(i, codes[..., i * width : (i + 1) * width])
            here = self._mask(i, None, kept, codes.shape[:2])
            total = total + masked(value, here)
        return total

    def _inner(self, z):
        x = z.astype(jnp.float32)
        x = self.inward(x) if self.projected else x
        if self.pre_clamp:
            limit = np.asarray(self.pre_clamp, np.float32)
            x = jnp.tanh(x / limit) * limit
        return x

    def _outer(self, values):
        return self.outward(values) if self.projected else values


def inner_width(quantizer: Any) -> int:
    """Width of the features that a quantizer takes."""
    if getattr(quantizer, "width", 0):
        return quantizer.width
    bits = getattr(quantizer, "bits", 0)
    return bits * quantizer.groups if bits else quantizer.space.slots


def residual_vq(
    depth: int,
    codes: int | tuple[int, ...],
    width: int,
    code_width: int = 0,
    shared: bool = False,
    dropout: bool = False,
    **options: Any,
) -> ResidualQuantizer:
    """A residual vector quantizer.

    Args:
      depth: number of depths.
      codes: K, or one per depth.
      width: D of the features.
      code_width: width of the codes, with linear maps around the stack; 0 for D.
      shared: one codebook for all depths.
      dropout: see `ResidualQuantizer`.
      **options: of `VectorQuantizer`, and of `ResidualQuantizer` where it has an attribute of that name.

    Raises:
      ValueError: several sizes for a shared codebook, or another number of them than depths.
    """
    sizes = (codes,) * depth if isinstance(codes, int) else tuple(codes)
    if len(sizes) != depth or (shared and len(set(sizes)) > 1):
        raise ValueError(
            f"codes={codes} for depth={depth}, shared={shared}: give one size, or one per depth if not shared"
        )
    outer = {name: options.pop(name) for name in list(options) if name in _OUTER}
    inner = code_width or width
    books = tuple(VectorQuantizer(k, inner, **options) for k in (sizes[:1] if shared else sizes))
    return ResidualQuantizer(books, depth, width, dropout, **outer)


_OUTER = {"beam", "at_least", "multiple_of", "dropout_per", "gradient_fraction", "perturbation"}


def residual_lfq(
    depth: int, bits: int, width: int = 0, soft_clamp: float = 0.0, dropout: bool = False, **options: Any
) -> ResidualQuantizer:
    """Look-up free codes with scales 2^-i: with Q depths a uniform grid of 2^Q levels per channel.

    Args:
      depth: number of depths.
      bits: channels.
      width: D of the features.
      soft_clamp: c of `c tanh(x / c)`, halved at every depth; 0 for none.
      dropout: see `ResidualQuantizer`.
      **options: of `LFQ`, and of `ResidualQuantizer` where it has an attribute of that name.
    """
    outer = {name: options.pop(name) for name in list(options) if name in _OUTER}
    stack = tuple(LFQ(bits, scale=2.0**-i, soft_clamp=soft_clamp * 2.0**-i, **options) for i in range(depth))
    return ResidualQuantizer(stack, depth, width, dropout, **outer)


def residual_fsq(
    depth: int,
    levels: tuple[int, ...],
    width: int = 0,
    pre_clamp: float | None = None,
    bound: Literal["tanh", "clip"] = "clip",
    dropout: bool = False,
    **outer: Any,
) -> ResidualQuantizer:
    """Symmetric scalar codes with scales L^-i per channel, so that each depth divides the bins of the one before.

    Args:
      depth: number of depths.
      levels: per channel.
      width: D of the features.
      pre_clamp: c of `c tanh(x / c)` before the first depth; default `1 + 1 / (L - 1)` per channel.
      bound: of the depths.
      dropout: see `ResidualQuantizer`.
      **outer: of `ResidualQuantizer`.
    """
    n = np.asarray(levels, np.float64)
    clamp = tuple(1 + 1 / (n - 1)) if pre_clamp is None else (pre_clamp,) * len(levels)
    scales = tuple(tuple(n**-i) for i in range(depth))
    stack = tuple(FSQ(levels, symmetric=True, bound=bound) for _ in range(depth))
    return ResidualQuantizer(stack, depth, width, dropout, scales=scales, pre_clamp=clamp, **outer)


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
        """See `ResidualQuantizer`; losses of the groups are added up."""
        if key is None and train and self.has_rng("quantizer"):
            key = self.make_rng("quantizer")
        outs = [
            quantizer(part, train=train, key=key, temperature=temperature, mask=mask, **options)
            for quantizer, part in zip(self.quantizers, self._split(z), strict=True)
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

    def _split(self, z):
        if z.shape[-1] % len(self.quantizers):
            raise ValueError(f"{z.shape[-1]} channels cannot be split into {len(self.quantizers)} groups")
        return jnp.split(z, len(self.quantizers), axis=-1)
