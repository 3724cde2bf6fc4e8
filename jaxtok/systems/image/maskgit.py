"""Class-conditional generation of image tokens in a few parallel steps (MaskGIT, arXiv 2202.04200): a
tokenizer of one codebook, a masked prior, and a next-token prior of the same size to compare it with.

The tokenizer is a ViT with learned queries; the generator has TiTok's form (arXiv 2406.07550).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.nn.conditioning import ClassConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.systems.image.instella_t2i import InstellaT2I
from jaxtok.systems.image.titok_maskgit import TiTokMaskGIT
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.weights import FrozenNetwork

PRIORS = ("masked", "autoregressive")


@dataclasses.dataclass(frozen=True)
class MaskGIT:
    """Sizes of the whole system.

    Attributes:
      codec: sizes of the tokenizer; its own priors are not used.
      generator: sizes of the masked prior, of as many tokens and codes as the tokenizer has.
      autoregressive_settings: sampler settings of the next-token prior, which has the generator's size.
    """

    codec: InstellaT2I
    generator: TiTokMaskGIT
    autoregressive_settings: AutoregressiveSettings = AutoregressiveSettings(guidance=1.0)

    def __post_init__(self):
        codec, generator = self.codec, self.generator
        if generator.tokens != codec.tokens or generator.space != codec.space:
            raise ValueError(
                f"the generator models {generator.tokens} tokens of levels {generator.space.levels}, the "
                f"tokenizer makes {codec.tokens} of levels {codec.space.levels}; set both alike"
            )

    @classmethod
    def tiny(cls) -> "MaskGIT":
        """8x8 digits as 16 tokens of 64 codes; trains in minutes on two CPU cores."""
        codec = dataclasses.replace(InstellaT2I.tiny(), quantizer="vq", tokens=16, codebook=64)
        return cls(codec, TiTokMaskGIT.tiny())

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return self.codec.space

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.generator.classes

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Images to tokens and back."""
        return self.codec.tokenizer(dtype)

    def masked(self, dtype: Any = jnp.float32) -> Prior:
        """The masked prior."""
        return self.generator.prior(dtype)

    def autoregressive(self, dtype: Any = jnp.float32) -> Prior:
        """A next-token prior of the generator's depth and width."""
        size = self.generator
        network = LatentTransformer(
            size.space,
            size.tokens,
            size.layers,
            size.heads,
            size.width // size.heads,
            causal=True,
            timed=False,
            conditioner=ClassConditioner(size.classes, size.width),
            remat=size.remat,
            unroll=size.unroll,
            dtype=dtype,
        )
        return Prior(network, Autoregressive(size.space, settings=self.autoregressive_settings))

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `PRIORS` by name."""
        if name not in PRIORS:
            raise ValueError(f"prior {name!r}; choose one of {PRIORS}")
        return self.masked(dtype) if name == "masked" else self.autoregressive(dtype)

    # -- use --

    def encode(self, variables: Any, images: jax.Array) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure."""
        return self.codec.encode(variables, images)

    def decode(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of latents or codes at `size` (height, width) pixels; pure."""
        return self.codec.decode(variables, latents, size)

    def class_condition(self, labels: jax.Array) -> Condition:
        """Condition of class labels int32 [B], with "no class" as null; the same for both priors."""
        return self.generator.network().class_condition(labels)

    def batch_condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition:
        """Condition of a training batch, for `PriorObjective`."""
        del frozen
        return self.class_condition(batch["label"])

    def networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that the priors need: none."""
        return {}

    def shapes(self) -> dict[str, Any]:
        """Variables of every component as shapes, nothing is allocated: "tokenizer" and `PRIORS`."""
        codes = Latents(codes=jnp.zeros((1, self.codec.tokens, self.space.slots), jnp.int32))
        condition, key = self.class_condition(jnp.zeros((1,), jnp.int32)), jax.random.key(0)
        shapes = {"tokenizer": self.codec.shapes()["tokenizer"]}
        for name in PRIORS:
            shapes[name] = {"params": jax.eval_shape(self.prior_named(name).init, key, codes, condition)}
        return shapes
