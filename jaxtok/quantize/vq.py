"""Vector quantization with one codebook, learned by gradient (arXiv 1711.00937) or by moving averages.

    k(z) = argmin_k |P z - e_k|^2,   q = out(e_k)

The codebook may live in a space of fewer dimensions than the features (arXiv 2110.04627); P and out are then
linear maps.

    >>> import jax
    >>> from jaxtok.quantize.vq import VectorQuantizer
    >>> quantizer = VectorQuantizer(codes=256, width=32, code_width=8, learning="ema")
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 32))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, quantizer.space.bits
    ((4, 8, 1), 8.0)
    >>> state = quantizer.update(variables["quantizer"], out.statistics, jax.random.key(2))
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.linear import linear


def nearest_code(z: Float[jax.Array, "M D"], codebook: Float[jax.Array, "K D"]) -> Int[jax.Array, " M"]:
    """Index of the nearest code by Euclidean distance, the lowest index on ties; float32 throughout."""
    products = jnp.dot(z.astype(jnp.float32), codebook.T.astype(jnp.float32), precision="highest")
    return jnp.argmin(jnp.sum(jnp.square(codebook), axis=-1) - 2 * products, axis=-1).astype(jnp.int32)


def moving_average_update(
    state: dict[str, jax.Array], statistics: dict[str, jax.Array], decay: float, epsilon: float = 1e-5
) -> dict[str, jax.Array]:
    """One exponential-moving-average step of a codebook.

        n <- decay n + (1 - decay) counts,  s <- decay s + (1 - decay) sums,
        e = s / (N (n + epsilon) / (N + K epsilon)),  N = sum n

    Args:
      state: "codebook" [K, D], "counts" [K], "sums" [K, D].
      statistics: "counts" [K] and "sums" [K, D], summed over the whole batch, mesh and micro-batches.
      decay: in [0, 1).
      epsilon: Laplace smoothing, keeps codes without assignments finite.
    """
    counts = decay * state["counts"] + (1 - decay) * statistics["counts"]
    sums = decay * state["sums"] + (1 - decay) * statistics["sums"]
    total = jnp.sum(counts)
    smoothed = (counts + epsilon) / (total + counts.shape[0] * epsilon) * total
    return {"codebook": sums / smoothed[:, None], "counts": counts, "sums": sums}


def split_dead_codes(
    state: dict[str, jax.Array], key: jax.Array, threshold: float, noise: float = 1e-2
) -> dict[str, jax.Array]:
    """Moves codes that hardly anything is assigned to beside codes with many assignments (LBG splitting).

    A code is dead when its count is below `threshold` times the mean count. It becomes a copy of a live code,
    drawn in proportion to the counts, plus noise; all of its state is reset with it. Needs nothing but the
    state, so it is the same on any number of devices and micro-batches.

    Args:
      state: "codebook" [K, D], "counts" [K], "sums" [K, D].
      key: scalar key.
      threshold: share of the mean count; 0 leaves everything alone.
      noise: its standard deviation, as a share of that of the codebook.
    """
    codebook, counts = state["codebook"], state["counts"]
    mean = jnp.mean(counts)
    dead = counts < threshold * mean
    key_donor, key_noise = jax.random.split(key)
    logits = jnp.where(dead, -jnp.inf, jnp.log(jnp.maximum(counts, 1e-30)))
    donors = jax.random.categorical(key_donor, logits, shape=counts.shape)
    drawn = jax.random.normal(key_noise, codebook.shape) * noise * jnp.std(codebook)
    moved = jnp.where(dead[:, None], codebook[donors] + drawn, codebook)
    # With the mean count a revived code has time to gather assignments before it can be dead again.
    counts = jnp.where(dead, mean, counts)
    return {
        "codebook": moved,
        "counts": counts,
        "sums": jnp.where(dead[:, None], moved * mean, state["sums"]),
    }


class VectorQuantizer(nn.Module):
    """One codebook. Everything is float32: bfloat16 distances merge neighbouring codes.

    Attributes:
      codes: K, codebook size.
      width: width of the features.
      code_width: width of the codes; equal to `width`, without projections, when 0.
      learning: "gradient" (the codebook is a parameter, moved by `mean |sg(z) - e|^2`) or "ema" (it is state,
        moved by `update` toward the mean of its assigned features).
      commitment: weight of `mean |z - sg(e)|^2`, which keeps features near their codes.
      decay: of the moving averages.
      revive_below: share of the mean count below which a code of an "ema" codebook is dead and is moved
        beside a live one; 0 for never.
    """

    codes: int
    width: int
    code_width: int = 0
    learning: Literal["gradient", "ema"] = "gradient"
    commitment: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.0

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    def setup(self):
        inner = self.code_width or self.width
        if self.code_width:
            self.inward, self.outward = linear(inner), linear(self.width)
        shape = (self.codes, inner)
        if self.learning == "gradient":
            # Small, as in the Kaiming-uniform default of the field: features grow towards the codes they
            # chose.
            self.codebook = self.param(
                "codebook", nn.initializers.variance_scaling(2.0, "fan_in", "uniform"), shape
            )
        else:
            # At the scale of the features, which must find codes around them: averages do not come to them.
            init = nn.initializers.normal(1.0)
            start = self.variable("quantizer", "codebook", lambda: init(self.make_rng("params"), shape))
            self.variable("quantizer", "counts", lambda: jnp.ones((self.codes,), jnp.float32))
            # A copy: two leaves that share one buffer cannot be donated.
            self.variable("quantizer", "sums", lambda: jnp.array(start.value))
            self.codebook = start.value

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features; training and evaluation differ only in what the caller does with losses and
        statistics.

        Returns:
          `Quantized` with losses "commitment" (weighted) and, for a gradient codebook, "codebook"; statistics
          "counts" float32 [K] and "sums" float32 [K, code width] of the assigned features.
        """
        del train, key, temperature
        inner = self._inward(z)
        codes = nearest_code(inner.reshape(-1, inner.shape[-1]), self.codebook)
        chosen = self.codebook[codes].reshape(inner.shape)
        losses = {"commitment": self.commitment * jnp.mean(jnp.square(inner - jax.lax.stop_gradient(chosen)))}
        if self.learning == "gradient":
            losses["codebook"] = jnp.mean(jnp.square(jax.lax.stop_gradient(inner) - chosen))
        routed = jax.lax.stop_gradient(chosen) + (inner - jax.lax.stop_gradient(inner))
        flat = jax.lax.stop_gradient(inner).reshape(-1, inner.shape[-1])
        statistics = {
            "counts": jnp.zeros((self.codes,), jnp.float32).at[codes].add(1.0),
            "sums": jnp.zeros_like(self.codebook).at[codes].add(flat),
        }
        return Quantized(self._outward(routed), codes.reshape(*z.shape[:2], 1), losses, statistics)

    def encode(self, z: Float[jax.Array, "B N D"]) -> Int[jax.Array, "B N 1"]:
        """Nearest codes, int32."""
        inner = self._inward(z)
        return nearest_code(inner.reshape(-1, inner.shape[-1]), self.codebook).reshape(*z.shape[:2], 1)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Embeddings of codes, float32."""
        return self._outward(self.codebook[codes[..., 0]])

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The moving-average step and revival; state passes through for a gradient codebook."""
        if self.learning == "gradient":
            return state
        state = moving_average_update(state, statistics, self.decay)
        return split_dead_codes(state, key, self.revive_below) if self.revive_below else state

    def _inward(self, z):
        z = z.astype(jnp.float32)
        return self.inward(z) if self.code_width else z

    def _outward(self, values):
        return self.outward(values) if self.code_width else values


def code_statistics(statistics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Health of a codebook from the summed statistics of a batch or window.

    Returns:
      "usage": share of codes used; "perplexity": `exp` of the entropy of their frequencies, in [1, K].
    """
    p = statistics["counts"] / jnp.sum(statistics["counts"])
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))
    return {"usage": jnp.mean(p > 0), "perplexity": jnp.exp(entropy)}
