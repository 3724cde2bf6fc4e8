"""Vector quantization: each token (or each of its slots) becomes the nearest vector of a codebook.

    k(z) = argmin_k |P z - e_k|^2   or   argmax_k cos(P z, e_k),        q = out(e_k)

The codebook is learned by gradient (arXiv 1711.00937), by moving averages of the features that chose each
code, or by gradient with unused codes pulled to features (CVQ, arXiv 2307.15139). It may live in a space of
fewer dimensions than the features (arXiv 2110.04627); P and out are then linear maps. Several slots split the
channels into groups with a code each (product quantization), from codebooks of their own or from a shared
one. Distances are float32 at full precision whatever the features are: in bfloat16 neighbouring codes are
equal.

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

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import lookup, nearest_code
from jaxtok.kernels.nearest_code.api import Metric, unit
from jaxtok.quantize import affine as affine_map
from jaxtok.quantize import vq_losses, vq_state
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.linear import linear
from jaxtok.quantize.revival import Unit
from jaxtok.quantize.routing import directional, masked, masked_mean, propagate_nonfinite, route
from jaxtok.quantize.soft_assignment import assignment_entropies


class VectorQuantizer(nn.Module):
    """One codebook, or one per slot.

    Attributes:
      codes: K, codebook size.
      width: D, width of the features.
      code_width: width of all slots together; equal to `width`, without projections, when 0.
      learning: "gradient" (the codebook is a parameter, moved by `mean |sg(z) - e|^2`), "ema" (it is state,
        moved by `update` toward the mean of its assigned features), "cvq" (as "gradient", and `update` pulls
        unused codes to features, see `jaxtok.quantize.cvq`), or "frozen" (state that never moves).
      commitment: weight of the term that keeps features near their codes, `mean |z - sg(e)|^2`.
      decay: of the moving averages of features, counts and use.
      revive_below: share of the mean count below which a code is dead and is replaced; 0 for never.
      metric: "euclidean", or "cosine": features and codes are compared, and passed on, with unit length.
      routing: "straight_through", "rotation" (arXiv 2410.06424) or "directional" (DiVeQ: noise in place of
        the straight-through estimate, gradient to the codebook).
      slots: groups of channels with a code each.
      share_codebook: whether all slots use one codebook.
      revival: what a dead code becomes: "split" a copy of a live one plus noise, "sample" a token of the
        batch.
      revive_unit: whether `revive_below` is a share of the "mean" count, or a number of "tokens" per batch.
      project: "auto" only when `code_width` says so, or "always".
      normalise_projected: layer normalisation behind the inward projection.
      commitment_form: "mse", or "cross_entropy" of the similarities against the chosen codes.
      sample_temperature: in training, codes are drawn from softmax(similarity / temperature); 0 takes the
        nearest.
      orthogonal_weight: of the mean squared cosine between codes (arXiv 2112.00384), which a codebook learned
        by gradient can follow.
      orthogonal_active: only between codes that the batch chose.
      orthogonal_codes: only between this many codes, drawn anew in every training step; 0 for all.
      diversity_weight: of the negative entropy of the mean soft assignment.
      diversity_temperature: factor of the similarities in it.
      entropy_weight: of `mean H(p) - H(mean p)`, p the assignment `softmax(-|z - e_k|^2 / T)` of a token
        (MaskGIT, arXiv 2202.04200; an option of LlamaGen): certain choices, of all codes. Needs one codebook.
      entropy_temperature: T in it.
      optimistic: in [0, 1], by how much the gradient that is passed on is larger (synchronised update rule,
        arXiv 2305.08842, as in `vector-quantize-pytorch`).
      codebook_weight: of `mean |sg(z) - e|^2`, for "gradient" codebooks.
      perturbation: variance of the noise of "directional" routing.
      affine: whether the codes are moved and stretched as one to lie where the features lie, see
        `jaxtok.quantize.affine`.
      affine_decays: of the moments of the codes and of the features.
    """

    codes: int
    width: int
    code_width: int = 0
    learning: Literal["gradient", "ema", "cvq", "frozen"] = "gradient"
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
    affine_decays: tuple[float, float] = affine_map.DECAYS
    revive_unit: Unit = "mean"
    orthogonal_active: bool = False
    orthogonal_codes: int = 0
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels per group of channels."""
        return CodeSpace((self.codes,) * self.slots)

    @property
    def books(self) -> int:
        """Number of codebooks."""
        return 1 if self.share_codebook else self.slots

    @property
    def by_gradient(self) -> bool:
        """Whether the codebook is a parameter."""
        return self.learning in ("gradient", "cvq")

    @property
    def revives(self) -> bool:
        """Whether `update` moves codes that are not used."""
        return self.learning == "cvq" or (bool(self.revive_below) and self.learning != "frozen")

    def setup(self):
        self._check()
        inner = self.code_width or self.width
        self.projected = bool(self.code_width) or self.project == "always"
        if self.projected:
            self.inward, self.outward = linear(inner), linear(self.width)
            if self.normalise_projected:
                self.inward_norm = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32)
        shape = (self.codes, inner // self.slots)
        shape = shape if self.books == 1 else (self.slots, *shape)
        if self.by_gradient:
            # Small, as in the Kaiming-uniform default of the field: features grow towards the codes they
            # chose.
            books = tuple(range(len(shape) - 2))
            init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform", batch_axis=books)
            kept = self.param("codebook", init, shape)
        else:
            # At the scale of the features, which must find codes around them: averages do not come to them.
            draw = lambda: nn.initializers.normal(1.0)(self.make_rng("params"), shape)
            start = lambda: unit(draw()) if self.metric == "cosine" else draw()
            kept = self.variable("quantizer", "codebook", start).value
        beside = vq_state.start(self, shape)
        if self.learning == "ema":
            # A copy: two leaves that share one buffer cannot be donated.
            beside |= {"counts": jnp.ones(shape[:-1]), "sums": jnp.array(kept)}
        self.beside = {
            name: self.variable("quantizer", name, jnp.array, value).value
            for name, value in beside.items()
            # Official checkpoints know neither an offset nor the number of tokens of a batch.
            if name not in ("offset", "tokens")
            or self.is_initializing()
            or self.has_variable("quantizer", name)
        }
        self.kept = kept + self.beside["offset"] if "offset" in self.beside else kept
        self.codebook = self.kept
        if self.affine:
            self.codebook = affine_map.stretch(self.kept, self.beside, "code", "batch")

    def _check(self):
        inner = self.code_width or self.width
        if inner % self.slots:
            raise ValueError(f"{inner} channels cannot be split into slots={self.slots}; choose a divisor")
        if self.orthogonal_weight and not self.by_gradient:
            raise ValueError(
                f"orthogonal_weight={self.orthogonal_weight} has no effect on a codebook with "
                f"learning={self.learning!r}; use learning='gradient'"
            )
        if self.entropy_weight and self.books > 1:
            raise ValueError(
                f"entropy_weight={self.entropy_weight} needs one codebook, but there are {self.books}; use "
                "share_codebook=True or slots=1"
            )
        if self.affine and self.metric != "euclidean":
            raise ValueError(f"affine=True needs metric='euclidean', got {self.metric!r}")
        if self.revive_below and self.learning in ("cvq", "frozen"):
            raise ValueError(
                f"revive_below={self.revive_below} has no effect with learning={self.learning!r}; leave it 0 "
                "or use learning='ema' or 'gradient'"
            )

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
          temperature: replaces `sample_temperature`, unless that is 0.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with losses (weighted) "commitment", "codebook", "orthogonal", "diversity", "entropy" as
          far as they are in use; statistics "counts" float32 [K] or [Q, K] and "sums" [..., K, width of a
          slot] of the assigned features, and a sample of the batch where revival needs one.
        """
        x = self._inner(masked(z, mask))
        if temperature is None or not self.sample_temperature:  # whoever anneals does not ask who samples
            temperature = self.sample_temperature
        draws = train and not (isinstance(temperature, int | float) and temperature == 0)
        samples = train and self.revives and (self.learning == "cvq" or self.revival == "sample")
        keys: Any = None
        if draws or samples or (train and (self.routing == "directional" or self.orthogonal_codes)):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
        codes, similarity = self.nearest(x), None
        if draws:
            similarity = self.similarities(x)
            gumbel = random.gumbel(random.fold(keys, 0), similarity.shape[1:])
            codes = jnp.argmax(similarity / temperature + gumbel, axis=-1).astype(jnp.int32)
        noise = uniforms = scores = None
        if train and self.routing == "directional":
            noise = random.normal(random.fold(keys, 1), x.shape[1:])
        if samples:
            uniforms = random.uniform(random.fold(keys, 2), (*x.shape[1:-1], 3))
        if train and self.orthogonal_codes:
            scores = random.uniform(random.fold(keys, 3), (self.codes,))[0]
        return self.quantize(x, codes, noise, mask, similarity, uniforms, scores)

    def quantize(
        self,
        x: Float[jax.Array, "B N S d"],
        codes: Int[jax.Array, "B N S"],
        noise: jax.Array | None = None,
        mask: jax.Array | None = None,
        similarity: jax.Array | None = None,
        uniforms: jax.Array | None = None,
        scores: jax.Array | None = None,
    ) -> Quantized:
        """The rest of the forward pass once codes are chosen; deterministic.

        Args:
          x: projected features by slot, from `inner`.
          codes: of each slot.
          noise: standard normal like x, for "directional" routing; None routes straight through.
          mask: see `__call__`.
          similarity: [B, N, S, K] if it is known.
          uniforms: [B, N, S, 3] in [0, 1), for a sample of the batch in the statistics, see
            `revival.batch_sample`.
          scores: [K] in [0, 1), which codes the orthogonal term takes, see `vq_losses.subset`.
        """
        chosen = self._chosen(codes)
        if self.routing != "directional":
            routed = route(self.routing)(x, chosen)
        elif noise is not None:
            routed = directional(x, chosen, noise, self.perturbation)
        else:
            routed = propagate_nonfinite(chosen, x)
        if self.optimistic:
            routed = routed + self.optimistic * (routed - jax.lax.stop_gradient(routed))
        sample = None
        if uniforms is not None:
            if self.learning == "cvq":
                expected = self.beside.get("tokens", jnp.zeros(self.kept.shape[:-2]))
            else:
                expected = jnp.sum(self.beside["counts"], axis=-1)
            sample = uniforms, expected
        statistics = vq_state.additive(self, x, codes, mask, self.kept, self.beside, sample)
        losses = self._losses(x, chosen, codes, mask, similarity, statistics["counts"], scores)
        return Quantized(masked(self._outward(routed), mask), masked(codes, mask), losses, statistics)

    def _losses(self, x, chosen, codes, mask, similarity, counts, scores):
        losses = {}
        if self.commitment_form == "cross_entropy" or self.diversity_weight:
            similarity = self.similarities(x) if similarity is None else similarity
        if self.commitment and self.routing != "directional":
            if self.commitment_form == "mse":
                term = masked_mean(jnp.square(x - jax.lax.stop_gradient(chosen)), mask)
            else:
                term = masked_mean(vq_losses.cross_entropy(similarity, codes), mask)
            losses["commitment"] = self.commitment * term
        if self.by_gradient and self.codebook_weight and self.routing != "directional":
            moved = masked_mean(jnp.square(jax.lax.stop_gradient(x) - chosen), mask)
            losses["codebook"] = self.codebook_weight * moved
        if self.orthogonal_weight:
            taken = self.kept, None
            if self.orthogonal_active or self.orthogonal_codes:
                active = (counts > 0).astype(jnp.float32) if self.orthogonal_active else jnp.ones_like(counts)
                taken = vq_losses.subset(self.kept, active, self.orthogonal_codes, scores)
            losses["orthogonal"] = self.orthogonal_weight * vq_losses.orthogonality(*taken)
        if self.diversity_weight:
            term = vq_losses.diversity(similarity, self.diversity_temperature, mask)
            losses["diversity"] = self.diversity_weight * term
        if self.entropy_weight:
            each, mean = self._entropies(x, mask)
            losses["entropy"] = self.entropy_weight * (each - mean)
        return losses

    def _entropies(self, x, mask):
        codebook = unit(self.codebook) if self.metric == "cosine" else self.codebook
        mask = None if mask is None else jnp.broadcast_to(mask[..., None], x.shape[:-1])
        return assignment_entropies(x, codebook, self.entropy_temperature, mask, affinity="euclidean")

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
        return vq_losses.similarities(x, self.codebook, self.metric)

    def nearest_codes(self, z: Float[jax.Array, "B N D"], k: int) -> Int[jax.Array, "B N S k"]:
        """The k nearest codes of each slot, best first; holds [tokens, K]."""
        return jax.lax.top_k(self.similarities(self._inner(z)), k)[1].astype(jnp.int32)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N S"]:
        """Nearest codes, int32; 0 where the mask is False."""
        return masked(self.nearest(self._inner(masked(z, mask))), mask)

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
          state: the collection "quantizer". A codebook that is a parameter without state: `{"codebook":
            parameter}`, which comes back with the means in it.
          z: features of the whole batch.
          key: scalar key.
          mask: bool [B, N] of real tokens.
          iterations: of Lloyd's algorithm.

        Returns:
          The state with every codebook replaced by the means.
        """
        return vq_state.from_features(
            self, state, self._inner(masked(z, mask)), mask, self.kept, key, iterations
        )

    @nn.nowrap
    def update(
        self, state: Any, statistics: Any, key: jax.Array, code_weights: jax.Array | None = None
    ) -> Any:
        """State after an optimizer step, see `jaxtok.quantize.vq_state`.

        Args:
          state: the collection "quantizer".
          statistics: of the whole batch, summed over its parts.
          key: scalar key.
          code_weights: [K] or [Q, K], how much of a step each code of an "ema" codebook makes; 1 if absent.
        """
        return vq_state.step(self, state, statistics, key, code_weights)

    def _inner(self, z):
        z = z.astype(jnp.float32)
        if self.projected:
            z = self.inward(z)
            z = self.inward_norm(z) if self.normalise_projected else z
        z = z.reshape(*z.shape[:2], self.slots, -1)
        return unit(z) if self.metric == "cosine" else z

    def _chosen(self, codes):
        codebook = unit(self.codebook) if self.metric == "cosine" and self.by_gradient else self.codebook
        if self.books == 1:
            return lookup(codebook, codes)
        return jnp.stack([lookup(codebook[slot], codes[..., slot]) for slot in range(self.slots)], axis=-2)

    def _outward(self, values):
        values = values.reshape(*values.shape[:2], -1)
        return self.outward(values) if self.projected else values


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQConfig(QuantizerConfig):
    """Vector quantization, see `VectorQuantizer`.

    Attributes:
      codes: K, codebook size.
      code_width: channels in which codes are compared; as many as the features have, without projections,
        when 0.
      learning: of the codebook: by "gradient", by moving averages ("ema"), by gradient with unused codes
        pulled to features ("cvq"), or "frozen".
      metric: how features and codes are compared; "cosine" passes them on with unit length.
      commitment: weight of `mean |z - sg(e)|^2`, which moves features.
      codebook_weight: of `mean |sg(z) - e|^2`, which moves a codebook that is learned by gradient.
      decay: of moving averages.
      revive_below: share of the mean count below which a code is dead and is replaced; 0 for never.
      revival: what a dead code becomes: "split" a copy of a live one, "sample" a token of the batch.
      k_means: whether the codebook starts with k-means on the features of the first batch.
      routing: of the gradient: "straight_through", "rotation" or "directional".
      perturbation: variance of the noise of "directional" routing.
      slots: groups of channels with a code each.
      share_codebook: whether all slots use one codebook.
      normalise_projected: layer normalisation behind the inward projection.
      sample_temperature: in training, codes are drawn at this temperature; 0 takes the nearest.
      orthogonal_weight: of the mean squared cosine between codes.
      diversity_weight: of the negative entropy of the mean soft assignment.
      entropy_weight: of certain choices, of all codes; needs one codebook.
      entropy_temperature: of the assignments in it.
      affine: whether the codes are moved and stretched as one to lie where the features lie.
    """

    kind = "vq"

    codes: int = 1024
    code_width: int = 0
    learning: Literal["gradient", "ema", "cvq", "frozen"] = "gradient"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    commitment: float = 0.25
    codebook_weight: float = 1.0
    decay: float = 0.99
    revive_below: float = 0.0
    revival: Literal["split", "sample"] = "split"
    k_means: bool = False
    routing: Literal["straight_through", "rotation", "directional"] = "straight_through"
    perturbation: float = 5e-3
    slots: int = 1
    share_codebook: bool = False
    normalise_projected: bool = False
    sample_temperature: float = 0.0
    orthogonal_weight: float = 0.0
    diversity_weight: float = 0.0
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    affine: bool = False

    def build(self, width: int) -> VectorQuantizer:
        """See `QuantizerConfig.build`."""
        return VectorQuantizer(width=width, **fields_of(self, without=("k_means",)))

    @property
    def codebook_from_data(self) -> bool:
        """See `QuantizerConfig.codebook_from_data`."""
        return self.k_means

    @property
    def sampling_temperature(self) -> float | None:
        """See `QuantizerConfig.sampling_temperature`."""
        return self.sample_temperature or None
