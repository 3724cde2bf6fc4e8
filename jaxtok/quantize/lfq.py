"""Look-up free quantization: the signs of d channels are the code (LFQ, MAGVIT-v2, arXiv 2310.05737).

    q = s sign(x)  (sign(0) = -1),   code = sum_j [x_j > 0] 2^j

There is no codebook to learn. An entropy term makes each token sure of its code and the batch use all of
them:

    L = weight (E_i H(p_i) - gamma H(E_i p_i)),   p_i = softmax_k(2 tau x_i . c_k),   c_k in {-s, s}^d

H(p_i) is a sum over bits, and the average over tokens is one matrix product, see `jaxtok.quantize.entropy`:
nothing of size [tokens, 2^d] exists. With `spherical`, x and the codes lie on a sphere of radius s (BSQ,
arXiv 2406.07548). Several groups of d bits each have a code of their own; WeTok (arXiv 2508.05599) pools
their average. Features should be normalised before (group or unit norm without affine), or the entropy term
saturates.

    >>> import jax
    >>> from jaxtok.quantize.lfq import LFQ
    >>> quantizer = LFQ(bits=9, groups=2, width=32, spherical=True)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 32))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z, train=True)
    >>> out.codes.shape, quantizer.space.bits, sorted(out.losses)
    ((4, 8, 2), 18.0, ['commitment', 'entropy'])
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxtok.codes import Array, CodeSpace, Quantized
from jaxtok.kernels.nearest_code.api import unit
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.entropy import (
    BatchEntropy,
    LogFloor,
    batch_entropy,
    floored_sample_entropy,
    sample_entropy,
)
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import CosineDense, linear, rotation
from jaxtok.quantize.routing import masked, masked_mean, straight_through

_COUNTED_BITS = 16  # more are counted bit by bit


def pack_bits(on: Bool[jax.Array, "*batch d"]) -> Int[jax.Array, "*batch"]:
    """`sum_j on_j 2^j`, int32."""
    return jnp.sum(on.astype(jnp.int32) << jnp.arange(on.shape[-1]), axis=-1)


def unpack_bits(codes: Int[Array, "*batch"], bits: int) -> Bool[jax.Array, "*batch d"]:
    """The bits of codes, bit 0 first."""
    return ((jnp.asarray(codes)[..., None] >> jnp.arange(bits)) & 1) == 1


class LFQ(FixedStateQuantizer):
    """Look-up free quantization.

    Attributes:
      bits: d, bits per code, at most 31.
      groups: codes per token.
      width: D of the features; 0 for `bits * groups`, otherwise linear maps lead in and out.
      scale: s, the magnitude of a value (of the whole code, if spherical).
      spherical: normalise inputs and codes to length `scale` (BSQ).
      commitment: weight of `mean |x - sg(q)|^2`.
      entropy_weight: weight of the entropy term; 0 leaves it out.
      diversity: gamma, weight of the batch's entropy in it.
      inverse_temperature: tau.
      batch_entropy: "exact" over all 2^d codes of each group, "factorised" per bit (an upper bound that needs
        no joint alphabet), or "pooled" exact over one average of all groups (WeTok).
      log_floor: how 1e-5 enters the logarithm of the exact batch entropy.
      floored_samples: whether it enters the entropy of each token too, at the cost of an enumeration of all
        codes, see `jaxtok.quantize.entropy.floored_sample_entropy`.
      softplus_offset: if not None, the entropy term becomes softplus(it + offset), which is never negative.
      soft_clamp: if not 0, x becomes c tanh(x / c) first.
      project: "auto" when widths differ, or "always".
      projection: what leads in: "linear", or "cosine" (bounded outputs).
      projection_scale: largest output of the latter; 0 for `scale`.
      projection_bias: whether the linear maps have one.
      rotated: whether a fixed random rotation leads in and out.
    """

    bits: int
    groups: int = 1
    width: int = 0
    scale: float = 1.0
    spherical: bool = False
    commitment: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    inverse_temperature: float = 100.0
    batch_entropy: BatchEntropy = "exact"
    log_floor: LogFloor = "clamp"
    floored_samples: bool = False
    softplus_offset: float | None = None
    soft_clamp: float = 0.0
    project: Literal["auto", "always"] = "auto"
    projection: Literal["linear", "cosine"] = "linear"
    projection_scale: float = 0.0
    projection_bias: bool = True
    rotated: bool = False

    @property
    def space(self) -> CodeSpace:
        """One slot of 2^bits levels per group."""
        return CodeSpace((2**self.bits,) * self.groups)

    def setup(self):
        if not 1 <= self.bits <= 31:
            raise ValueError(f"bits={self.bits} per code do not fit int32; use 1 to 31 and more groups")
        if self.entropy_weight and self.batch_entropy != "factorised" and self.bits > 22:
            raise ValueError(
                f"bits={self.bits}: an exact batch entropy needs 2^bits counters; use "
                "batch_entropy='factorised', or more groups with fewer bits"
            )
        channels = self.bits * self.groups
        self.projected = self.project == "always" or (self.width or channels) != channels
        if self.projected:
            if self.projection == "cosine":
                self.inward = CosineDense(channels, self.projection_scale or self.scale)
            else:
                self.inward = linear(channels, self.projection_bias)
            self.outward = linear(self.width or channels, self.projection_bias)
        if self.rotated:
            self.turn = self.variable(
                "quantizer", "rotation", lambda: rotation(self.make_rng("params"), channels)
            ).value

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
        inverse_temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features; training and evaluation differ only in what the caller does with the losses.

        The batch entropy is that of the batch at hand, on a mesh of the whole one: with micro-batches it is
        that of each of them.

        Args:
          z: features.
          train, key, temperature: not used; nothing is drawn.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.
          inverse_temperature: replaces the attribute of that name (for annealing).

        Returns:
          `Quantized` with losses (weighted) "commitment" and "entropy"; statistics "counts" [2^bits] (or
          [groups, 2^bits]), or for more than 16 bits "on" [bits * groups] and "tokens" [].
        """
        del train, key, temperature
        x = self.inner(masked(z, mask))
        on = x > 0
        q = self._values(on)
        losses = {}
        if self.commitment:
            error = masked_mean(jnp.square(x - jax.lax.stop_gradient(q)), mask)
            losses["commitment"] = self.commitment * error
        if self.entropy_weight:
            tau = self.inverse_temperature if inverse_temperature is None else inverse_temperature
            losses["entropy"] = self.entropy_weight * self._entropy_term(*self.entropies(x, tau, mask))
        codes = masked(pack_bits(on), mask)
        values = masked(self._outer(straight_through(x, q)), mask)
        return Quantized(values, codes, losses, self._statistics(codes, on, mask))

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N G"]:
        """Codes, int32 in [0, 2^bits)."""
        return masked(pack_bits(self.inner(z) > 0), mask)

    def decode(self, codes: Int[jax.Array, "B N G"]) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        return self._outer(self._values(unpack_bits(codes, self.bits)))

    def inner(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N G d"]:
        """The channels whose signs are the code."""
        x = z.astype(jnp.float32)
        x = self.inward(x) if self.projected else x
        x = jnp.dot(x, self.turn, precision="highest") if self.rotated else x
        x = self.soft_clamp * jnp.tanh(x / self.soft_clamp) if self.soft_clamp else x
        x = x.reshape(*x.shape[:2], self.groups, self.bits)
        return unit(x) * self.scale if self.spherical else x

    def entropies(
        self,
        x: Float[jax.Array, "B N G d"],
        inverse_temperature: float | jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
        """Mean entropy of a code, and entropy of the average code, in nats, averaged over groups."""
        logits = (4 * inverse_temperature * self._size * x).reshape(-1, self.groups, self.bits)
        weights = None if mask is None else mask.reshape(-1).astype(jnp.float32)
        by_sample = floored_sample_entropy if self.floored_samples else sample_entropy
        return by_sample(logits, weights), batch_entropy(logits, self.batch_entropy, weights, self.log_floor)

    def _entropy_term(self, sample, batch):
        term = sample - self.diversity * batch
        return term if self.softplus_offset is None else jax.nn.softplus(term + self.softplus_offset)

    @property
    def _size(self):
        return self.scale / self.bits**0.5 if self.spherical else self.scale

    def _values(self, on):
        return jnp.where(on, jnp.float32(self._size), jnp.float32(-self._size))

    def _outer(self, values):
        values = values.reshape(*values.shape[:2], -1)
        values = jnp.dot(values, self.turn.T, precision="highest") if self.rotated else values
        return self.outward(values) if self.projected else values

    def _statistics(self, codes, on, mask):
        if self.bits <= _COUNTED_BITS:
            return joint_counts(codes, (2**self.bits,), mask)
        on = masked(on.astype(jnp.float32), mask).reshape(*on.shape[:2], -1)
        tokens = jnp.float32(on.shape[0] * on.shape[1]) if mask is None else jnp.sum(mask, dtype=jnp.float32)
        return {"on": jnp.sum(on, axis=(0, 1)), "tokens": tokens}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LFQConfig(QuantizerConfig):
    """Look-up free quantization, see `LFQ`.

    Attributes:
      bits: d, bits per code.
      groups: codes per token.
      scale: magnitude of a value.
      commitment: weight of `mean |x - sg(q)|^2`.
      entropy_weight: weight of the entropy term; 0 leaves it out.
      diversity: weight of the batch's entropy in it.
      inverse_temperature: of the soft assignments in it.
      batch_entropy: "exact" over all 2^d codes of each group, "factorised" per bit, or "pooled" over one
        average of all groups.
      soft_clamp: c of `c tanh(x / c)` before the signs; 0 for none.
      project: linear maps in and out: "auto" when widths differ, or "always".
      projection: what leads in: "linear", or "cosine" (bounded outputs).
      projection_bias: whether the linear maps have one.
      rotated: whether a fixed random rotation leads in and out.
    """

    kind = "lfq"

    bits: int = 10
    groups: int = 1
    scale: float = 1.0
    commitment: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    inverse_temperature: float = 100.0
    batch_entropy: BatchEntropy = "exact"
    soft_clamp: float = 0.0
    project: Literal["auto", "always"] = "auto"
    projection: Literal["linear", "cosine"] = "linear"
    projection_bias: bool = True
    rotated: bool = False

    def build(self, width: int) -> LFQ:
        """See `QuantizerConfig.build`."""
        return LFQ(width=width, **fields_of(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BSQConfig(LFQConfig):
    """Binary spherical quantization (arXiv 2406.07548): look-up free codes on the unit sphere, see `LFQ`."""

    kind = "bsq"

    def build(self, width: int) -> LFQ:
        """See `QuantizerConfig.build`."""
        return LFQ(width=width, spherical=True, **fields_of(self))
