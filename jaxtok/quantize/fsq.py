"""Finite scalar quantization: every channel is bounded and rounded to one of a few levels (arXiv 2309.15505).

    y = tanh(z + s) h' - o,   code = round(y) + floor(L / 2),   value = round(y) / floor(L / 2)   in [-1, 1]

with h' = (L - 1)(1 + 1e-3) / 2, o = 1/2 for even L (0 for odd) and s = atanh(o / h'), so that z = 0 is in the
middle. Even numbers of levels are not symmetric about 0 that way; `symmetric` is (arXiv 2411.19842), and
needed for L = 2:

    code = floor((L - 1)(tanh(z) + 1) / 2 + 1/2),   value = 2 code / (L - 1) - 1

There is no codebook and no loss; every channel is one slot. Everything is float32.

    >>> import jax
    >>> from jaxtok.quantize.fsq import FSQ
    >>> quantizer = FSQ(levels=(8, 5, 5, 5), width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, quantizer.space.size
    ((4, 8, 4), 1000)
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear, rotation
from jaxtok.quantize.routing import masked

_EPSILON = 1e-3  # how far the outermost levels lie inside the bounds
Bound = Literal["tanh", "clip"]


def _squash(z, bound: Bound):
    return jnp.tanh(z) if bound == "tanh" else jnp.clip(z, -1.0, 1.0)


def lattice(codes: Int[jax.Array, "*batch Q"], levels: tuple[int, ...], symmetric: bool) -> jax.Array:
    """Values in [-1, 1] of codes, float32."""
    n = np.asarray(levels, np.float32)
    half = n // 2
    # A product of an integer and a constant: rounded once, and so the same to the bit however it is compiled
    # (a division by a constant is not).
    if symmetric:
        return (2 * codes - (n - 1)) * (1 / (n - 1))
    return (codes - half) * (1 / half)


def quantize_levels(
    z: Float[jax.Array, "*batch Q"],
    levels: tuple[int, ...],
    symmetric: bool = False,
    bound: Bound = "tanh",
    skipped: Bool[jax.Array, "*#batch Q2"] | None = None,
) -> tuple[Int[jax.Array, "*batch Q"], Float[jax.Array, "*batch Q"]]:
    """Codes, and their values with the gradient of the bounded input (straight-through rounding).

    Args:
      z: float32, one channel per slot.
      levels: number of levels of each slot, at least 2.
      symmetric: values symmetric about 0 for even numbers of levels too.
      bound: "tanh", or "clip" to [-1, 1].
      skipped: where values are bounded but not rounded, broadcastable to z; None for nowhere.
    """
    n = np.asarray(levels, np.float32)
    if symmetric:
        bounded = _squash(z, bound)
        codes = jnp.floor((n - 1) * (bounded + 1) / 2 + 0.5)
    else:
        half = (n - 1) * np.float32(1 + _EPSILON) / 2
        offset = np.where(n % 2 == 0, np.float32(0.5), np.float32(0))
        shift = np.arctanh(offset / half)
        moved = _squash(z + shift, bound) * half - offset
        codes = jnp.round(moved) + n // 2
        bounded = moved / (n // 2)
    codes = jnp.clip(codes, 0, n - 1).astype(jnp.int32)
    values = lattice(codes, levels, symmetric) + (bounded - jax.lax.stop_gradient(bounded))
    return codes, values if skipped is None else jnp.where(skipped, bounded, values)


def jitter(values: jax.Array, uniforms: jax.Array, moved: jax.Array) -> jax.Array:
    """Values of chosen entries move by `uniforms - 1/2`, but not out of [-1, 1].

    Args:
      values: quantized, in [-1, 1].
      uniforms: uniform numbers in [0, 1).
      moved: bool, which entries.
    """
    return jnp.where(moved, jnp.clip(values + uniforms - 0.5, -1.0, 1.0), values)


class FSQ(FixedStateQuantizer):
    """Finite scalar quantization.

    Attributes:
      levels: number of levels per channel of one group.
      width: D of the features; 0 for as many as there are slots. Linear maps lead in and out when they
        differ.
      groups: independent copies of the levels, side by side.
      symmetric: levels symmetric about 0, see above.
      bound: "tanh", or "clip".
      noise: in training, the probability with which a value gets uniform noise in [-1/2, 1/2) (as
        `vector-quantize-pytorch` reads arXiv 2411.19842); the codes stay.
      rotated: whether a fixed random rotation leads in and out, so that levels do not lie along the channels.
      project: "auto" when widths differ, or "always".
      projection_bias: whether the linear maps have one.
      skip: in training, the probability with which an example keeps values that are not rounded (as the
        official FlexTok, arXiv 2502.13967, can); the codes stay.
    """

    levels: tuple[int, ...]
    width: int = 0
    groups: int = 1
    symmetric: bool = False
    bound: Bound = "tanh"
    noise: float = 0.0
    rotated: bool = False
    project: Literal["auto", "always"] = "auto"
    projection_bias: bool = True
    skip: float = 0.0

    @property
    def space(self) -> CodeSpace:
        """One slot per channel."""
        return CodeSpace(tuple(self.levels) * self.groups)

    def setup(self):
        if min(self.levels) < 2 or (min(self.levels) == 2 and not self.symmetric):
            raise ValueError(
                f"levels={self.levels}: every channel needs at least 3 levels, or 2 with symmetric=True"
            )
        slots = len(self.levels) * self.groups
        self.projected = self.project == "always" or (self.width or slots) != slots
        if self.projected:
            self.inward = linear(slots, self.projection_bias)
            self.outward = linear(self.width or slots, self.projection_bias)
        if self.rotated:
            self.turn = self.variable(
                "quantizer", "rotation", lambda: rotation(self.make_rng("params"), slots)
            ).value

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
          train: add noise where `noise` says so, and skip rounding where `skip` does.
          key: scalar key or one key per example, for the noise; default the "quantizer" stream of `rngs`.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` without losses; statistics "counts" float32 [size] of whole tokens (per group), or of
          each slot when there are too many of them, see `jaxtok.quantize.counting`.
        """
        del temperature
        keys = skipped = None
        if train and (self.noise or self.skip):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
        if keys is not None and self.skip:
            skipped = random.uniform(random.fold(keys, 2), (1, 1)) < self.skip
        codes, values = quantize_levels(
            self._inner(masked(z, mask)),
            tuple(self.levels) * self.groups,
            self.symmetric,
            self.bound,
            skipped,
        )
        if keys is not None and self.noise:
            uniforms = random.uniform(random.fold(keys, 0), values.shape[1:])
            moved = random.uniform(random.fold(keys, 1), values.shape[1:]) < self.noise
            values = jitter(values, uniforms, moved)
        return Quantized(
            masked(self._outer(values), mask), masked(codes, mask), {}, joint_counts(codes, self.levels, mask)
        )

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Codes, int32 in [0, levels)."""
        levels = tuple(self.levels) * self.groups
        return masked(quantize_levels(self._inner(z), levels, self.symmetric, self.bound)[0], mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        return self._outer(lattice(codes, tuple(self.levels) * self.groups, self.symmetric))

    def _inner(self, z):
        z = z.astype(jnp.float32)
        z = self.inward(z) if self.projected else z
        return jnp.dot(z, self.turn, precision="highest") if self.rotated else z

    def _outer(self, values):
        values = jnp.dot(values, self.turn.T, precision="highest") if self.rotated else values
        return self.outward(values) if self.projected else values


@dataclasses.dataclass(frozen=True, kw_only=True)
class FSQConfig(QuantizerConfig):
    """Finite scalar quantization, see `FSQ`.

    Attributes:
      levels: number of levels per channel of one group; each channel is a slot.
      groups: independent copies of the levels, side by side.
      symmetric: levels symmetric about 0, which 2 levels need.
      bound: of the channels: "tanh", or "clip".
      noise: in training, the probability with which a value gets uniform noise.
      rotated: whether a fixed random rotation leads in and out.
      project: linear maps in and out: "auto" when widths differ, or "always".
      projection_bias: whether they have a bias.
      skip: in training, the probability with which an example keeps values that are not rounded.
    """

    kind = "fsq"

    levels: tuple[int, ...] = (8, 5, 5, 5)
    groups: int = 1
    symmetric: bool = False
    bound: Bound = "tanh"
    noise: float = 0.0
    rotated: bool = False
    project: Literal["auto", "always"] = "auto"
    projection_bias: bool = True
    skip: float = 0.0

    def build(self, width: int) -> FSQ:
        """See `QuantizerConfig.build`."""
        return FSQ(width=width, **fields_of(self))
