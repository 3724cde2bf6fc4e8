"""The two stages of TiTok with proxy codes (arXiv 2406.07550): predict the teacher's codes, then tune the
decoder to pixels.

    stage 1   cross-entropy(logits, codes of the teacher) + quantizer losses        no pixels at all
    stage 2   pixel, perceptual and adversarial losses; encoder and quantizer stay

The teacher is any tokenizer of one code per patch; its decoder and codebook become part of the second stage.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Latents
from jaxtok.losses.terms import Terms
from jaxtok.nn.images import to_float
from jaxtok.quantize.health import health
from jaxtok.quantize.vq_losses import cross_entropy
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.titok import TiTok
from jaxtok.systems.objectives import Batch, TokenizerObjective, Variables, nan_without_codes
from jaxtok.tokenizers.proxy import initialise_from

# What the second stage leaves as the first one made it, for `TrainConfig.groups`.
FROZEN = (("^(encoder|quantizer)/", 0.0),)


@dataclasses.dataclass(frozen=True)
class ProxyObjective:
    """Stage 1: the codes of a frozen teacher, from our own.

    Attributes:
      tokenizer: Linen module whose decoder makes "logits" [B, cells, K].
      encode: `(frozen variables of the teacher, images) -> Latents` of one code per cell.
      quantizer_weight: of the quantizer's losses.
      teacher: name of the stage or network whose variables are frozen.
    """

    tokenizer: Any
    encode: Callable[[Variables, jax.Array], Latents]
    quantizer_weight: float = 1.0
    teacher: str = "teacher"

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """Fresh variables."""
        del frozen
        return self.tokenizer.init({"params": key}, to_float(batch["image"])[:1])

    def loss(
        self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array, step: jax.Array
    ) -> Terms:
        """Cross-entropy in nats per cell and the quantizer's losses; "accuracy" is the share of cells whose
        likeliest code is the teacher's.
        """
        del step
        images = jnp.asarray(to_float(batch["image"]))
        codes = jax.lax.stop_gradient(self.encode(frozen[self.teacher], images)).codes
        target = codes[..., 0]
        out = self.tokenizer.apply(variables, images, train=True, key=keys)
        logits = out.features["logits"]
        total = proxy = nan_without_codes(jnp.mean(cross_entropy(logits, target)), codes)
        metrics = {"loss/proxy": proxy, "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == target)}
        for name, value in out.quantized.losses.items():
            metrics[f"loss/{name}"] = value
            total = total + self.quantizer_weight * value
        metrics["loss/total"] = total
        return Terms(total, metrics, out.quantized.statistics, {})

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """State of the quantizer after an optimizer step."""
        if "quantizer" not in collections:
            return collections
        state = self.tokenizer.update_quantizer(collections["quantizer"], statistics, key)
        return {**collections, "quantizer": state}

    def summarise(self, statistics: Variables) -> dict[str, jax.Array]:
        """Health of the codes of this batch."""
        return {f"batch/{name}": value for name, value in health(statistics).items()}


@dataclasses.dataclass(frozen=True)
class DecoderTuning(TokenizerObjective):
    """Stage 2: starts as the first stage and the teacher, and keeps the codes of the first stage.

    Train it with the groups `FROZEN`, so that encoder and quantizer stay as they are; the quantizer's losses
    then have no effect.

    Attributes:
      proxy: name of the first stage.
      teacher: name of the stage or network whose codes it predicts.
    """

    proxy: str = "proxy"
    teacher: str = "teacher"

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """Variables of the first stage, with the teacher's codebook and decoder behind them."""
        fresh = jax.eval_shape(lambda: super(DecoderTuning, self).init(key, batch, frozen))
        first = frozen[self.proxy]
        params = initialise_from(fresh["params"], first["params"], frozen[self.teacher]["params"])
        # Copies: the state is donated, the frozen variables are not.
        return jax.tree.map(jnp.copy, {**first, "params": params})

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """Nothing of the quantizer moves."""
        del statistics, key
        return collections


@dataclasses.dataclass(frozen=True)
class ProxyImages(ImageSystem):
    """A first stage with images to look at: the teacher's decoder draws what is predicted.

    Variables are {"own": of the first stage, "teacher": of the teacher}.

    Attributes:
      model: the system.
    """

    model: TiTok

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        return cast(CodeSpace, self.model.space)

    def encode_images(self, variables: Any, images: Any) -> Latents:
        """Codes of images."""
        return cast(Latents, self.model.proxy().apply(variables["own"], images, method="encode"))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of latents or codes."""
        codes = latents.codes if isinstance(latents, Latents) else latents
        side = self.model.image_size
        pixels = (side, side) if size is None else size

        def predict(module, codes):
            return module.decoder(module.embed(codes), pixels)[1]["logits"]

        logits = cast(jax.Array, self.model.proxy().apply(variables["own"], codes, method=predict))
        return self.model.teacher.decode_soft(variables["teacher"], logits, pixels)
