"""What is minimised: objectives that systems of the same kind share.

An objective has `init(key, batch, frozen) -> variables`, `loss(variables, batch, frozen, keys, step) ->
Terms`, `update_collections(collections, statistics, key)` and `summarise(statistics)`; the stage builders of
`jaxtok.train` turn it into an update. `frozen` holds the variables of earlier stages and of frozen networks
by name.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtok.codes import NO_CODE, CodeSpace, Condition, Latents, Regrouping
from jaxtok.losses import reconstruction
from jaxtok.losses.alignment import alignment_loss
from jaxtok.losses.terms import Terms
from jaxtok.nn.images import to_float
from jaxtok.priors.contract import Codec, Prior
from jaxtok.priors.independent import count_codes, independent_nll
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.health import health

Batch = dict[str, Any]  # arrays; a caller with its own `condition` may put anything
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TokenizerWeights:
    """Weights of the terms of a tokenizer's loss; 0 leaves a term out.

    Attributes:
      reconstruction: which distance between values in [-1, 1].
      reconstruction_weight: its weight.
      smooth_l1_beta: where smooth-L1 turns from square to absolute.
      quantizer_weight: of all losses of the quantizer but "bits".
      bit_weight: of the bit regulariser mean p (1 - p), which pushes bits to saturation.
      perceptual_weight: of the distance between the frozen network's features.
      alignment_weight: of the alignment of decoder tokens with a frozen encoder's features.
      temperature_start: sampling temperature of the quantizer at step 0; it falls geometrically to the
        model's own.
      temperature_steps: steps until it has; 0 for no annealing.
    """

    reconstruction: Literal["smooth_l1", "l1", "l2"] = "smooth_l1"
    reconstruction_weight: float = 1.0
    smooth_l1_beta: float = 0.1
    quantizer_weight: float = 1.0
    bit_weight: float = 0.01
    perceptual_weight: float = 0.0
    alignment_weight: float = 0.0
    temperature_start: float = 1.0
    temperature_steps: int = 0


@dataclasses.dataclass(frozen=True)
class TokenizerObjective:
    """Reconstruction, quantizer, perceptual and alignment terms of an image tokenizer.

    Attributes:
      tokenizer: Linen module that returns a `Reconstruction`.
      weights: of the terms.
      temperature: at which annealing ends; None for the quantizer's own, without annealing.
      perceptual: `(frozen variables, x, y) -> distance [B]`; its variables are `frozen["perceptual"]`.
      alignment: `(frozen variables, images) -> features`; its variables are `frozen["alignment"]`.
      codebook_from_data: whether the quantizer's state starts with k-means on the first batch.
      text: `(batch, frozen) -> text` for a decoder that reads one, see `ImageTokenizer`.
    """

    tokenizer: Any
    weights: TokenizerWeights = TokenizerWeights()
    temperature: float | None = None
    perceptual: Callable[..., jax.Array] | None = None
    alignment: Callable[..., jax.Array] | None = None
    codebook_from_data: bool = False
    text: Callable[[Batch, Variables], Any] | None = None

    def __post_init__(self):
        for name in ("perceptual", "alignment"):
            weight = getattr(self.weights, f"{name}_weight")
            if weight and getattr(self, name) is None:
                raise ValueError(
                    f"{name}_weight={weight}, but no frozen network was given; give its weights or set it to "
                    "0"
                )

        if self.weights.temperature_steps and self.temperature is None:
            raise ValueError(
                f"temperature_steps={self.weights.temperature_steps} anneals the sampling of a quantizer "
                "that draws no codes; set --weights.temperature-steps to 0, or choose one that does"
            )

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """Fresh variables."""
        images = to_float(batch["image"])
        one = {name: value[:1] for name, value in batch.items()} if self.text is not None else batch
        variables = self.tokenizer.init(
            {"params": key}, images[:1], train=bool(self.alignment), key=key, **self._condition(one, frozen)
        )
        if not self.codebook_from_data:
            return variables
        fitted = self.tokenizer.apply(
            variables,
            variables.get("quantizer"),
            images,
            jax.random.fold_in(key, 1),
            method="initialise_quantizer",
        )
        return {**variables, "quantizer": fitted}

    def loss(
        self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array, step: jax.Array
    ) -> Terms:
        """All terms of a batch, see `Terms`; outputs "real" and "fake" images."""
        images, w = to_float(batch["image"]), self.weights
        out = self.tokenizer.apply(
            variables,
            images,
            train=True,
            key=keys,
            temperature=self._temperature(step),
            **self._condition(batch, frozen),
        )
        pixel_loss = getattr(reconstruction, w.reconstruction)
        extra = {"beta": w.smooth_l1_beta} if w.reconstruction == "smooth_l1" else {}
        distance = pixel_loss(out.x_hat, images, **extra)
        metrics = {f"loss/{w.reconstruction}": distance}
        total = w.reconstruction_weight * distance
        for name, value in out.quantized.losses.items():
            metrics[f"loss/{name}"] = value
            total = total + (w.bit_weight if name == "bits" else w.quantizer_weight) * value
        if self.perceptual is not None and w.perceptual_weight:
            value = jnp.mean(self.perceptual(frozen["perceptual"], out.x_hat, images))
            metrics["loss/perceptual"] = value
            total = total + w.perceptual_weight * value
        if self.alignment is not None and w.alignment_weight:
            target = jax.lax.stop_gradient(self.alignment(frozen["alignment"], images))
            value = alignment_loss(out.features["alignment"], target)
            metrics["loss/alignment"] = value
            total = total + w.alignment_weight * value
        mse = jnp.mean(jnp.square(out.x_hat - images), axis=(1, 2, 3))
        # Pixels span 2; a floor keeps a perfect image finite.
        metrics["psnr"] = jnp.mean(10 * jnp.log10(4 / jnp.maximum(mse, 1e-10)))
        metrics["loss/total"] = total
        return Terms(total, metrics, out.quantized.statistics, {"real": images, "fake": out.x_hat})

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """State of the quantizer after an optimizer step."""
        if "quantizer" not in collections:
            return collections
        return {
            **collections,
            "quantizer": self.tokenizer.update_quantizer(collections["quantizer"], statistics, key),
        }

    def summarise(self, statistics: Variables) -> dict[str, jax.Array]:
        """Health of the codes of this batch."""
        return {f"batch/{name}": value for name, value in health(statistics).items()}

    def _condition(self, batch, frozen):
        return {} if self.text is None else {"text": self.text(batch, frozen)}

    def _temperature(self, step):
        w = self.weights
        if not w.temperature_steps or self.temperature is None:
            return self.temperature
        done = jnp.clip(step / w.temperature_steps, 0.0, 1.0)
        return w.temperature_start * (self.temperature / w.temperature_start) ** done


def objective_for(
    quantizer: QuantizerConfig, kind: Callable[..., Any] = TokenizerObjective
) -> Callable[..., Any]:
    """An objective with what the training of a quantizer needs: the temperature at which its annealing ends,
    and whether its codebook starts with k-means.
    """
    return functools.partial(
        kind,
        temperature=quantizer.sampling_temperature,
        codebook_from_data=quantizer.codebook_from_data,
    )


def batch_latents(
    encode: Callable[[Variables, Batch], Latents], frozen: Variables, tokenizer: str, batch: Batch
) -> Latents:
    """Latents of a batch: its "codes" [B, N, Q] where it comes from token files, else what `encode` makes."""
    if "codes" in batch:
        codes, mask = batch["codes"].astype(jnp.int32), batch.get("codes_mask")
        return Latents(codes, mask=None if mask is None else jnp.broadcast_to(mask[..., None], codes.shape))
    return jax.lax.stop_gradient(encode(frozen.get(tokenizer, {}), batch))


def nan_without_codes(loss: jax.Array, codes: jax.Array | None) -> jax.Array:
    """The loss, or NaN where a code is `NO_CODE`, so that the next check of the loop finds it."""
    return loss if codes is None else jnp.where(jnp.any(codes == NO_CODE), jnp.nan, loss)


@dataclasses.dataclass(frozen=True)
class PriorObjective:
    """Likelihood of a frozen tokenizer's codes under a prior.

    Attributes:
      prior: network and method.
      encode: `(frozen variables of the tokenizer, batch) -> Latents`.
      condition: `(batch, frozen) -> Condition | None`.
      tokenizer: name of the stage whose variables are frozen.
      codec: `(frozen variables of the tokenizer) -> Codec`, for priors that need one.
      grouping: how the prior joins the slots of the tokenizer's codes; None for not at all.
    """

    prior: Prior
    encode: Callable[[Variables, Batch], Latents]
    condition: Callable[[Batch, Variables], Condition | None]
    tokenizer: str = "tokenizer"
    codec: Callable[[Variables], Codec | None] | None = None
    grouping: Regrouping | None = None

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """Fresh variables."""
        batch = {name: value[:1] for name, value in batch.items()}
        return {"params": self.prior.init(key, self.prior.example(), self.condition(batch, frozen))}

    def loss(
        self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array, step: jax.Array
    ) -> Terms:
        """The prior's loss on the codes of the batch, or else on codes that are made here, by the tokenizer
        in evaluation mode.
        """
        made, prior = batch_latents(self.encode, frozen, self.tokenizer, batch), self.prior.at(step)
        latents, condition = self._grouped(made), self.condition(batch, frozen)
        total, metrics = prior.loss(variables["params"], latents, condition, keys, self._codec(frozen))
        total = nan_without_codes(total, made.codes)
        return Terms(total, {"loss/nll": total, **metrics}, {}, {})

    @property
    def loss_name(self) -> str:
        """What `held_out` gives: a likelihood, or a loss that bounds nothing."""
        return self.prior.method.loss_name

    def held_out(self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array) -> jax.Array:
        """The prior's loss with every caption and all of the network kept, in nats per slot."""
        made = batch_latents(self.encode, frozen, self.tokenizer, batch)
        method: Any = self.prior.method
        kept: dict[str, Any] = {"drop_path": ()} if hasattr(method, "drop_path") else {}
        method = dataclasses.replace(method, condition_dropout=0.0, **kept)
        prior, condition = dataclasses.replace(self.prior, method=method), self.condition(batch, frozen)
        latents, codec = self._grouped(made), self._codec(frozen)
        total, _ = prior.loss(variables["params"], latents, condition, keys, codec)
        return nan_without_codes(total, made.codes)

    def _codec(self, frozen):
        return None if self.codec is None else self.codec(frozen.get(self.tokenizer))

    def _grouped(self, latents: Latents) -> Latents:
        return latents if self.grouping is None else Latents(codes=self.grouping.merge(latents.codes))

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """Priors have none."""
        del statistics, key
        return collections

    def summarise(self, statistics: Variables) -> dict[str, jax.Array]:
        """Nothing to summarise."""
        del statistics
        return {}


@dataclasses.dataclass(frozen=True)
class IndependentEstimator:
    """Counts of codes per class, for the baseline of independent slots; for `streaming_estimator`.

    Attributes:
      space: alphabet of a token.
      tokens: N.
      classes: number of classes; 1 for the marginals of all images together.
      encode: `(frozen variables of the tokenizer, batch) -> Latents`.
      tokenizer: name of the stage whose variables are frozen.
    """

    space: CodeSpace
    tokens: int
    classes: int
    encode: Callable[[Variables, Batch], Latents]
    tokenizer: str = "tokenizer"

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """No counts yet."""
        del key, batch, frozen
        return {"counts": jnp.zeros((self.classes, self.tokens, sum(self.space.levels)), jnp.float32)}

    def update(
        self, params: Variables, batch: Batch, frozen: Variables, keys: jax.Array
    ) -> tuple[Variables, dict[str, jax.Array]]:
        """Adds the codes of a batch."""
        del keys
        codes = batch_latents(self.encode, frozen, self.tokenizer, batch).codes
        counts = params["counts"] + count_codes(codes, batch["label"], self.space, self.classes)
        return {"counts": counts}, {"images": jnp.sum(counts) / (self.tokens * self.space.slots)}

    loss_name = "nll"

    def held_out(self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array) -> jax.Array:
        """Negative log-likelihood in nats per slot."""
        del keys
        codes = batch_latents(self.encode, frozen, self.tokenizer, batch).codes
        nll = independent_nll(variables["params"]["counts"], codes, batch["label"], self.space)
        return nan_without_codes(nll, codes)
