"""MaskGIT: image tokens in a few parallel steps (arXiv 2202.04200), and a next-token prior of the same size
to compare it with.

The tokenizer is the MaskGIT-VQGAN. The network of the masked prior is a BERT (or U-ViT) in the form of
TiTok's generators (arXiv 2406.07550). The first code ties its head to the table of tokens and has one layer
more before it; here a matrix of its own maps to the codes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.nn.masked_transformer import Form, MaskedTransformer
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked, MaskedSettings
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN
from jaxtok.systems.image.prior_shape import PriorShape, masked_network, next_token_prior
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import FrozenNetwork

PRIORS = ("masked", "autoregressive")


@dataclasses.dataclass(frozen=True)
class MaskGIT(ImageSystem):
    """Sizes of the whole system; every published size is a class method.

    Attributes:
      codec: sizes of the tokenizer.
      prior: size of either prior.
      form: of the masked prior's network, "bert" or "unet".
      classes: number of classes.
      schedule: mask ratio in training, see `mask_ratio`.
      unmasked_weight: weight in the loss of tokens that are not masked.
      condition_dropout: share of the rows that train without their class, which guidance needs.
      settings: recommended sampler settings of the masked prior.
      autoregressive_settings: those of the next-token prior.
    """

    codec: MaskGITVQGAN = MaskGITVQGAN.imagenet_f16_256()
    prior: PriorShape = PriorShape(24, 16, 48)
    form: Form = "bert"
    classes: int = 1000
    schedule: str = "cosine"
    unmasked_weight: float = 0.0
    condition_dropout: float = 0.0
    settings: MaskedSettings = MaskedSettings.maskgit()
    autoregressive_settings: AutoregressiveSettings = AutoregressiveSettings()

    def __post_init__(self):
        if self.settings.guidance and not self.condition_dropout:
            raise ValueError(
                f"guidance={self.settings.guidance} needs rows that train without their class; set "
                "condition_dropout above 0, or guidance to 0"
            )

    @classmethod
    def tiny(cls) -> "MaskGIT":
        """8x8 digits as 4 x 4 tokens of 64 codes; trains in minutes on two CPU cores."""
        return cls(
            MaskGITVQGAN.tiny(),
            PriorShape(4, 4, 32, unroll=4),
            classes=10,
            # A small temperature: the order is what the claims are about.
            settings=MaskedSettings(8, "cosine", guidance=0.0, choice_temperature=1.0, grid=(4, 4)),
            autoregressive_settings=AutoregressiveSettings(guidance=0.0),
        )

    @classmethod
    def imagenet_256(cls) -> "MaskGIT":
        """The published size at 256 px: 256 tokens, 12 steps, no guidance."""
        codec = MaskGITVQGAN.imagenet_f16_256()
        codec = dataclasses.replace(codec, shape=dataclasses.replace(codec.shape, remat=True))
        return cls(codec, PriorShape(24, 16, 48, remat="dots"))

    @classmethod
    def imagenet_512(cls) -> "MaskGIT":
        """The published size at 512 px: 1024 tokens, 12 steps, no guidance."""
        model = cls.imagenet_256()
        return dataclasses.replace(model, codec=dataclasses.replace(model.codec, image_size=512))

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.codec.channels

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return self.codec.space

    @property
    def tokens(self) -> int:
        """N."""
        return self.codec.tokens

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Images to tokens and back."""
        return self.codec.tokenizer(dtype)

    def network(self, dtype: Any = jnp.float32) -> MaskedTransformer:
        """The network of the masked prior."""
        return masked_network(self.prior, self.space, self.tokens, self.classes, self.form, dtype)

    def masked(self, dtype: Any = jnp.float32) -> Prior:
        """The masked prior; its loss has label smoothing 0.1 and weighs every image alike."""
        method = Masked(
            self.space,
            self.schedule,
            unmasked_weight=self.unmasked_weight,
            condition_dropout=self.condition_dropout,
            settings=self.settings,
        )
        return Prior(self.network(dtype), method)

    def autoregressive(self, dtype: Any = jnp.float32) -> Prior:
        """A next-token prior of the same depth and width."""
        settings = self.autoregressive_settings
        return next_token_prior(self.prior, self.space, self.tokens, self.classes, settings, dtype)

    priors = PRIORS

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `PRIORS` by name.

        Raises:
          ValueError: another name.
        """
        if name not in PRIORS:
            raise ValueError(f"prior {name!r}; choose one of {PRIORS}")
        return self.masked(dtype) if name == "masked" else self.autoregressive(dtype)

    # -- use --

    @property
    def side(self) -> int:
        """See `ImageSystem`."""
        return self.codec.image_size

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure."""
        return self.codec.encode_images(variables, images)

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of latents or codes at `size` (height, width) pixels; pure."""
        return self.codec.decode_images(variables, latents, size)

    def class_condition(self, labels: jax.Array) -> Condition:
        """Condition of class labels int32 [B], with "no class" as null; the same for both priors."""
        return self.network().class_condition(labels)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition:
        """Condition of a training batch, for `PriorObjective`."""
        del frozen
        return self.class_condition(batch["label"])

    def networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that the priors need: none."""
        return {}

    def shapes(self) -> dict[str, Any]:
        """Variables of every component as shapes, nothing is allocated: "tokenizer" and `PRIORS`."""
        codes = Latents(codes=jnp.zeros((1, self.tokens, self.space.slots), jnp.int32))
        condition, key = self.class_condition(jnp.zeros((1,), jnp.int32)), jax.random.key(0)
        shapes = {"tokenizer": self.codec.shapes()["tokenizer"]}
        for name in PRIORS:
            shapes[name] = {"params": jax.eval_shape(self.prior_named(name).init, key, codes, condition)}
        return shapes


SYSTEM = MaskGIT
