"""Vector quantization: each token (or each of its slots) becomes the nearest vector of a codebook.

    k(z) = argmin_k |P z - e_k|^2   or   argmax_k cos(P z, e_k),        q = out(e_k)

The codebook is learned by gradient (arXiv 1711.00937) or by moving averages of the features that chose each
code. It may live in a space of fewer dimensions than the features (arXiv 2110.04627); P and out are then
linear maps. Several slots split the channels into groups with a code each (product quantization), from
codebooks of their own or from a shared one. Distances are float32 at full precision whatever the features
are: in bfloat16 neighbouring codes are equal.

    >>> import jax
    >>> from jaxtok.quantize.vq import VectorQuantizer
    >>> quantizer = VectorQuantizer(codes=256, width=32, code_width=8, learning="ema", metric="cosine")
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 32))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> state = quantizer.apply(variables, variables["quantizer"], z, jax.random.key(3), method="initialise")
    >>> out = quantizer.apply(variables | {"quantizer": state}, z)
    >>> out.codes.shape, quantizer.space.bits
    ((4, 8, 1), 8.0)
    >>> state = quantizer.update(state, out.statistics, jax.random.key(2))
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import code_statistics, lookup, nearest_code
from jaxtok.kernels.nearest_code.api import Metric, unit
from jaxtok.quantize import affine
from jaxtok.quantize import codebook as state_of
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import directional, masked, masked_mean, route
from jaxtok.quantize.vq_losses import cross_entropy, diversity, orthogonality, similarities


class VectorQuantizer(nn.Module):
    """One codebook, or one per slot.

    Attributes:
      codes: K, codebook size.
      width: D, width of the features.
      code_width: width of all slots together; equal to `width`, without projections, when 0.
      learning: "gradient" (the codebook is a parameter, moved by `mean |sg(z) - e|^2`) or "ema" (it is state,
        moved by `update` toward the mean of its assigned features), or "frozen" (state that never moves).
      commitment: weight of the term that keeps features near their codes, `mean |z - sg(e)|^2`.
      decay: of the moving averages.
      revive_below: share of the mean count below which a code of an "ema" codebook is dead and is replaced; 0
        for never.
      metric: "euclidean", or "cosine": features and codes are compared, and passed on, with unit length.
      routing: "straight_through", "rotation" (arXiv 2410.06424) or "directional" (DiVeQ: noise in place of
        the straight-through estimate, gradient to the codebook).
      slots: groups of channels with a code each.
      share_codebook: whether all slots use one codebook.
      revival: what a dead code becomes: "split" a copy of a live one plus noise, "sample" a token of the
        batch.
      project: "auto" only when `code_width` says so, or "always".
      normalise_projected: layer normalisation behind the inward projection.
      commitment_form: "mse", or "cross_entropy" of the similarities against the chosen codes.
      sample_temperature: in training, codes are drawn from softmax(similarity / temperature); 0 takes the
        nearest.
      orthogonal_weight: of the mean squared cosine between codes (arXiv 2112.00384); needs a "gradient"
        codebook.
      diversity_weight: of the negative entropy of the mean soft assignment.
      diversity_temperature: factor of the similarities in it.
      optimistic: in [0, 1], by how much the gradient that is passed on is larger (synchronised update rule,
        arXiv 2305.08842, as in `vector-quantize-pytorch`).
      codebook_weight: of `mean |sg(z) - e|^2`, for "gradient" codebooks.
      perturbation: variance of the noise of "directional" routing.
      affine: whether the codes of an "ema" codebook are moved and stretched as one to lie where the features
        lie, see `jaxtok.quantize.affine`; one codebook only.
    """

    codes: int
    width: int
    code_width: int = 0
    learning: Literal["gradient", "ema", "frozen"] = "gradient"
    commitment: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.0
    metric: Metric = "euclidean"
    routing: Literal["straight_through", "rotation", "directional"] = "straight_through"
    slots: int = 1
    share_codebook: bool = False
    revival: Literal["split", "sample"] = "split"
    project: Literal["auto", "always"] = "auto"
    normalise_projected: bool = False
    commitment_form: Literal["mse", "cross_entropy"] = "mse"
    sample_temperature: float = 0.0
    orthogonal_weight: float = 0.0
    diversity_weight: float = 0.0
    diversity_temperature: float = 100.0
    optimistic: float = 0.0
    codebook_weight: float = 1.0
    perturbation: float = 5e-3
    affine: bool = False

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels per group of channels."""
        return CodeSpace((self.codes,) * self.slots)

    @property
    def books(self) -> int:
        """Number of codebooks."""
        return 1 if self.share_codebook else self.slots

    def setup(self):
        inner = self.code_width or self.width
        if inner % self.slots:
            raise ValueError(f"{inner} channels cannot be split into slots={self.slots}; choose a divisor")
        if self.orthogonal_weight and self.learning != "gradient":
            raise ValueError(
                f"orthogonal_weight={self.orthogonal_weight} has no effect on a codebook with "
                f"learning={self.learning!r}; use learning='gradient'"
            )
        if self.affine and (self.learning != "ema" or self.books != 1 or self.metric != "euclidean"):
            raise ValueError(
                "affine=True needs one Euclidean codebook with learning='ema'; "
                f"got {self.books} with metric={self.metric!r} and learning={self.learning!r}"
            )
        self.projected = bool(self.code_width) or self.project == "always"
        if self.projected:
            self.inward, self.outward = linear(inner), linear(self.width)
            if self.normalise_projected:
                self.inward_norm = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32)
        shape = (self.codes, inner // self.slots)
        shape = shape if self.books == 1 else (self.slots, *shape)
        if self.learning == "gradient":
            # Small, as in the Kaiming-uniform default of the field: features grow towards the codes they
            # chose.
            init = nn.initializers.variance_scaling(
                2.0, "fan_in", "uniform", batch_axis=tuple(range(len(shape) - 2))
            )
            self.codebook = self.param("codebook", init, shape)
            return
        # At the scale of the features, which must find codes around them: averages do not come to them.
        init = nn.initializers.normal(1.0)

        def start_codes():
            codes = init(self.make_rng("params"), shape)
            return unit(codes) if self.metric == "cosine" else codes

        start = self.variable("quantizer", "codebook", start_codes)
        if self.learning == "ema":
            self.variable("quantizer", "counts", lambda: jnp.ones(shape[:-1], jnp.float32))
            # A copy: two leaves that share one buffer cannot be donated.
            self.variable("quantizer", "sums", lambda: jnp.array(start.value))
        self.codebook = start.value
        if self.affine:
            ones, zeros = jnp.ones(shape[-1:], jnp.float32), jnp.zeros(shape[-1:], jnp.float32)
            moments = {
                f"{side}_{name}": self.variable("quantizer", f"{side}_{name}", jnp.array, value).value
                for side in ("code", "batch")
                for name, value in (("mean", zeros), ("variance", ones))
            }
            self.moments = moments
            self.codebook = affine.stretch(self.codebook, moments, "code", "batch")

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
          train: draw codes and noise where the attributes say so.
          key: scalar key or one key per example; only for training with noise or revival by samples, default
            the "quantizer" stream of `rngs`.
          temperature: replaces `sample_temperature`.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with losses (weighted) "commitment", "codebook", "orthogonal", "diversity" as far as
          they are in use; statistics "counts" float32 [K] or [Q, K] and "sums" [..., K, width of a slot] of
          the assigned features, and a sample of the batch where revival needs one.
        """
        x = self._inner(z)
        temperature = self.sample_temperature if temperature is None else temperature
        noisy = train and (self._draws(temperature) or self.routing == "directional")
        keys = None
        if noisy or (train and self._samples):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
        codes, similarity = self.nearest(x), None
        if train and self._draws(temperature):
            similarity = self.similarities(x)
            gumbel = random.gumbel(random.fold(keys, 0), similarity.shape[1:])
            codes = jnp.argmax(similarity / temperature + gumbel, axis=-1).astype(jnp.int32)
        noise = None
        if train and self.routing == "directional":
            noise = random.normal(random.fold(keys, 1), x.shape[1:])
        out = self.quantize(x, codes, noise, mask, similarity)
        if train and self._samples:
            uniforms = random.uniform(random.fold(keys, 2), (*x.shape[1:-1], 2))
            out = Quantized(
                out.values, out.codes, out.losses, out.statistics | self._sample(x, uniforms, mask)
            )
        return out

    def quantize(
        self,
        x: Float[jax.Array, "B N S d"],
        codes: Int[jax.Array, "B N S"],
        noise: jax.Array | None = None,
        mask: jax.Array | None = None,
        similarity: jax.Array | None = None,
    ) -> Quantized:
        """The rest of the forward pass once codes are chosen; deterministic.

        Args:
          x: projected features by slot, from `inner`.
          codes: of each slot.
          noise: standard normal like x, for "directional" routing; None routes straight through.
          mask: see `__call__`.
          similarity: [B, N, S, K] if it is known.
        """
        chosen = self._chosen(codes)
        losses = {}
        if self.commitment_form == "cross_entropy" or self.diversity_weight:
            similarity = self.similarities(x) if similarity is None else similarity
        if self.commitment and self.routing != "directional":
            if self.commitment_form == "mse":
                term = masked_mean(jnp.square(x - jax.lax.stop_gradient(chosen)), mask)
            else:
                term = masked_mean(cross_entropy(similarity, codes), mask)
            losses["commitment"] = self.commitment * term
        if self.learning == "gradient" and self.codebook_weight and self.routing != "directional":
            moved = masked_mean(jnp.square(jax.lax.stop_gradient(x) - chosen), mask)
            losses["codebook"] = self.codebook_weight * moved
        if self.orthogonal_weight:
            losses["orthogonal"] = self.orthogonal_weight * orthogonality(self.codebook)
        if self.diversity_weight:
            losses["diversity"] = self.diversity_weight * diversity(
                similarity, self.diversity_temperature, mask
            )
        if self.routing == "directional":
            routed = directional(x, chosen, noise, self.perturbation) if noise is not None else chosen
        else:
            routed = route(self.routing)(x, chosen)
        if self.optimistic:
            routed = routed + self.optimistic * (routed - jax.lax.stop_gradient(routed))
        return Quantized(
            masked(self._outward(routed), mask), masked(codes, mask), losses, self._statistics(x, codes, mask)
        )

    def inner(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N S d"]:
        """Projected (and for the cosine normalised) features by slot, what codes are compared with."""
        return self._inner(z)

    def nearest(self, x: Float[jax.Array, "B N S d"]) -> Int[jax.Array, "B N S"]:
        """Nearest code of each slot."""
        if self.books == 1:
            return nearest_code(x.reshape(-1, x.shape[-1]), self.codebook, metric=self.metric).reshape(
                x.shape[:-1]
            )
        by_slot = jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 1, 0)
        return nearest_code(by_slot, self.codebook, metric=self.metric).T.reshape(x.shape[:-1])

    def similarities(self, x: Float[jax.Array, "B N S d"]) -> Float[jax.Array, "B N S K"]:
        """Negative distances (cosines) to all codes. Large: [tokens, K]; only where an option needs them."""
        return similarities(x, self.codebook, self.metric)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N S"]:
        """Nearest codes, int32; 0 where the mask is False."""
        return masked(self.nearest(self._inner(z)), mask)

    def decode(self, codes: Int[jax.Array, "B N S"]) -> Float[jax.Array, "B N D"]:
        """Embeddings of codes, float32."""
        return self._outward(self._chosen(codes))

    def initialise(
        self,
        state: Any,
        z: Float[jax.Array, "B N D"],
        key: jax.Array,
        mask: jax.Array | None = None,
        iterations: int = 10,
    ) -> Any:
        """State after k-means on the features of a first batch, from random tokens of it.

        Args:
          state: the collection "quantizer" ("gradient" codebooks: `{"codebook": ...}`).
          z: features of the whole batch.
          key: scalar key.
          mask: bool [B, N] of real tokens.
          iterations: of Lloyd's algorithm.

        Returns:
          The state with every codebook replaced by the means.
        """
        x = self._inner(z)
        slots, width = x.shape[2:]
        if (
            self.affine
        ):  # the map is enough: k-means would find the means of the features, which it leads to anyway
            sums = affine.moment_sums(x.reshape(-1, width), None if mask is None else mask.reshape(-1))
            return {**state, **affine.current_moments(state["codebook"], sums)}
        weights = (
            None if mask is None else jnp.broadcast_to(mask[..., None], x.shape[:-1]).astype(jnp.float32)
        )

        def fit(points, weights, key):
            means = state_of.random_points(points, self.codes, key, weights)
            return state_of.kmeans(points, means, iterations, self.metric, weights)

        if self.books == 1:
            fitted = fit(x.reshape(-1, width), None if weights is None else weights.reshape(-1), key)
        else:
            parts = [
                fit(
                    x[:, :, slot].reshape(-1, width),
                    None if weights is None else weights[:, :, slot].reshape(-1),
                    jax.random.fold_in(key, slot),
                )
                for slot in range(slots)
            ]
            fitted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        return {name: fitted.get(name, value) for name, value in state.items()}

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The moving-average step and revival; state passes through unless `learning` is "ema"."""
        if self.learning != "ema":
            return state
        moments = affine.update_moments(state, state["codebook"], statistics) if self.affine else {}
        state = state_of.moving_average_update(state, statistics, self.decay, metric=self.metric)
        state = {**state, **moments}
        if not self.revive_below:
            return state
        if self.revival == "split":
            state = {**state, **state_of.split_dead_codes(state, key, self.revive_below)}
            return state | {"codebook": unit(state["codebook"])} if self.metric == "cosine" else state
        if "sample" not in statistics:
            return state  # statistics of an evaluation pass
        return {
            **state,
            **state_of.resample_dead_codes(state, statistics, key, self.revive_below, self.metric),
        }

    @property
    def _samples(self) -> bool:
        return self.learning == "ema" and bool(self.revive_below) and self.revival == "sample"

    def _draws(self, temperature) -> bool:
        return not (isinstance(temperature, int | float) and temperature == 0)

    def _inner(self, z):
        z = z.astype(jnp.float32)
        if self.projected:
            z = self.inward(z)
            z = self.inward_norm(z) if self.normalise_projected else z
        z = z.reshape(*z.shape[:2], self.slots, -1)
        return unit(z) if self.metric == "cosine" else z

    def _chosen(self, codes):
        codebook = (
            unit(self.codebook) if self.metric == "cosine" and self.learning == "gradient" else self.codebook
        )
        if self.books == 1:
            return lookup(codebook, codes)
        return jnp.stack([lookup(codebook[slot], codes[..., slot]) for slot in range(self.slots)], axis=-2)

    def _outward(self, values):
        values = values.reshape(*values.shape[:2], -1)
        return self.outward(values) if self.projected else values

    def _by_book(self, x, mask):
        """Tokens [books, M, d] and their weights [books, M] or None."""
        weights = None if mask is None else jnp.broadcast_to(mask[..., None], x.shape[:3]).astype(jnp.float32)
        if self.books == 1:
            return x.reshape(1, -1, x.shape[-1]), None if weights is None else weights.reshape(1, -1)
        x = jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 1, 0)
        return x, None if weights is None else weights.reshape(-1, self.slots).T

    def _statistics(self, x, codes, mask):
        tokens, weights = self._by_book(jax.lax.stop_gradient(x), mask)
        moments = {}
        if self.affine:
            moments = affine.moment_sums(tokens[0], None if weights is None else weights[0])
            tokens = affine.stretch(tokens, self.moments, "batch", "code")
        codes = codes.reshape(1, -1) if self.books == 1 else codes.reshape(-1, self.slots).T
        parts = [
            code_statistics(tokens[b], codes[b], self.codes, weights=None if weights is None else weights[b])
            for b in range(self.books)
        ]
        counts, sums = (jnp.stack(part) if self.books > 1 else part[0] for part in zip(*parts, strict=True))
        return {"counts": counts, "sums": sums, **moments} if self.learning == "ema" else {"counts": counts}

    def _sample(self, x, uniforms, mask):
        tokens, weights = self._by_book(jax.lax.stop_gradient(x), mask)
        uniforms = self._by_book(uniforms, None)[0]
        weights = jnp.ones(tokens.shape[:2], jnp.float32) if weights is None else weights
        parts = [
            state_of.batch_sample(tokens[b], self.codes, uniforms[b], weights[b]) for b in range(self.books)
        ]
        return parts[0] if self.books == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
