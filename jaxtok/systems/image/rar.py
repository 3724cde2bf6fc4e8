"""RAR: next-token generation of a grid of codes that was trained in random orders first (arXiv 2411.00776).

The tokenizer is the MaskGIT-VQGAN; what is trained is the generator.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents, Regrouping
from jaxtok.priors.contract import Prior
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN
from jaxtok.systems.image.rar_generator import RARGenerator, official_components
from jaxtok.systems.joined import joined, split
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import FrozenNetwork


@dataclasses.dataclass(frozen=True)
class RAR(ImageSystem):
    """Sizes of the whole system.

    Attributes:
      codec: sizes of the tokenizer.
      generator: sizes of the generator, of as many tokens and codes as the tokenizer has; the slots of a
        token are one code of it.
    """

    codec: MaskGITVQGAN = MaskGITVQGAN()
    generator: RARGenerator = RARGenerator()

    def __post_init__(self):
        codec, generator = self.codec, self.generator
        if generator.tokens != codec.tokens:
            raise ValueError(
                f"the generator models {generator.tokens} tokens, the tokenizer makes {codec.tokens}; set "
                "both alike"
            )

    @classmethod
    def published(cls, size: str) -> "RAR":
        """The released tokenizer with a published generator: "B", "L", "XL" or "XXL".

        Raises:
          ValueError: an unknown size.
        """
        return cls(MaskGITVQGAN.imagenet_f16_256(), RARGenerator.published(size))

    @classmethod
    def tiny(cls) -> "RAR":
        """8x8 digits as 4 x 4 tokens of 64 codes; trains in minutes on two CPU cores."""
        return cls(MaskGITVQGAN.tiny(), RARGenerator.tiny())

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

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.generator.classes

    @property
    def grouping(self) -> Regrouping:
        """All slots of a token as one code, which the generator reads.

        Raises:
          ValueError: a token has more values than a table can hold, or others than the generator models.
        """
        return joined(self.space, "the generator", codes=self.generator.codebook)

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Images to tokens and back."""
        return self.codec.tokenizer(dtype)

    priors = ("autoregressive",)

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `priors` by name.

        Raises:
          ValueError: another name.
        """
        if name not in self.priors:
            raise ValueError(f"prior {name!r}; choose one of {self.priors}")
        _ = self.grouping  # whether both fit
        return self.generator.prior(dtype)

    # -- use --

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return "labels" if self.classes else "nothing"

    @property
    def side(self) -> int:
        """See `ImageSystem`."""
        return self.codec.image_size

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return self.codec.encode_images(variables, images)

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes at `size` (height, width) pixels; pure."""
        latents = latents if isinstance(latents, Latents) else Latents(codes=latents)
        return self.codec.decode_images(variables, split(latents, self.grouping), size)

    def class_condition(self, labels: jax.Array) -> Condition | None:
        """Condition of class labels int32 [B], with "no class" as null."""
        return self.generator.network().class_condition(labels)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition | None:
        """Condition of a training batch, for `PriorObjective`."""
        del frozen
        return None if not self.classes else self.class_condition(batch["label"])

    def networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that the prior needs: none."""
        return {}

    def shapes(self) -> dict[str, Any]:
        """Variables of "tokenizer" and "autoregressive" as shapes, nothing is allocated."""
        _ = self.grouping  # whether both fit
        return {"tokenizer": self.codec.shapes()["tokenizer"], "autoregressive": self.generator.shapes()}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


SYSTEM = RAR
