"""MaskGen: text to image by a masked prior of TA-TiTok's tokens (arXiv 2501.07730, official code
bytedance/1d-tokenizer).

The tokenizer makes few tokens of an image, and its decoder reads the caption beside them. The generator draws
the tokens, codes or continuous ones, from the caption in a few parallel steps. Official weights of the
generators load as "maskgen", those of the tokenizers as "tatitok".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import CodeSpace, Condition, Latents, Regrouping
from jaxtok.decoding.diffusion import GaussianDiffusion
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.nn.clip_text import ClipFeatures, ClipText, clip_text_shapes, load_clip_text
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import MaskedSettings
from jaxtok.priors.masked_values import MaskedValueSettings
from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.maskgen_generator import MaskGenerator, MaskGenText
from jaxtok.systems.image.maskgen_table import official_components
from jaxtok.systems.image.tatitok import TATiTok
from jaxtok.systems.joined import joined, split
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import FrozenNetwork

_NO_CLIP = "captions of this model go through a frozen CLIP; set --model.generator.text.path to its folder"
Ids = jax.Array | np.ndarray

SIZES = {
    "vq-l": MaskGenerator.vq_l,
    "vq-xl": MaskGenerator.vq_xl,
    "kl-l": MaskGenerator.kl_l,
    "kl-xl": MaskGenerator.kl_xl,
}


@dataclasses.dataclass(frozen=True)
class MaskGen(ImageSystem):
    """Sizes of the whole system.

    Attributes:
      codec: sizes of the tokenizer, whose own priors are not used.
      generator: sizes of the generator, of as many tokens and of the kind that the tokenizer makes.
    """

    codec: TATiTok
    generator: MaskGenerator

    def __post_init__(self):
        codec, generator = self.codec, self.generator
        if codec.tokens != generator.tokens:
            raise ValueError(
                f"the generator models {generator.tokens} tokens, the tokenizer makes {codec.tokens}; set "
                "both alike"
            )
        source = "bytes" if generator.text.source == "bytes" else "features"
        if codec.text_length and (codec.text_length, codec.text_source) != (generator.text.length, source):
            raise ValueError(
                f"the decoder reads text_length={codec.text_length} tokens of {codec.text_source}, the "
                f"generator {generator.text.length} of {source}; set both alike, or the first to 0"
            )

    @classmethod
    def tiny(cls) -> "MaskGen":
        """8x8 digits as 8 tokens of 64 codes, and their captions; trains in minutes on two CPU cores."""
        quantizer = VQConfig(codes=64, metric="cosine", learning="cvq")
        codec = dataclasses.replace(TATiTok.tiny(), tokens=8, quantizer=quantizer)
        generator = MaskGenerator(
            tokens=8,
            codebook=64,
            classes=0,
            layers=3,
            heads=2,
            width=64,
            text=MaskGenText("bytes", 20),
            score_width=0,
            settings=dataclasses.replace(MaskedSettings.maskgen(4, 1.0, 3.0), temperature_annealed=False),
            unroll=2,
        )
        return cls(codec, generator)

    @classmethod
    def tiny_kl(cls) -> "MaskGen":
        """The same with 8 continuous tokens of 8 channels."""
        model = cls.tiny()
        generator = dataclasses.replace(
            model.generator,
            kind="kl",
            channels=8,
            scale=1.0,
            denoiser_layers=3,
            denoiser_width=64,
            # The cosine's last step multiplies every error of a small network by 30 or more.
            diffusion=GaussianDiffusion(schedule="linear"),
            value_settings=MaskedValueSettings(8, diffusion_steps=25),
        )
        return cls(dataclasses.replace(model.codec, quantizer=GaussianConfig()), generator)

    @classmethod
    def published(cls, name: str) -> "MaskGen":
        """A released generator with its tokenizer: "vq-l", "vq-xl", "kl-l" or "kl-xl".

        Raises:
          ValueError: another name.
        """
        if name not in SIZES:
            raise ValueError(f"no MaskGen of size {name!r}; there are {', '.join(SIZES)}")
        generator = SIZES[name]()
        return cls(TATiTok.bl128_vq() if generator.kind == "vq" else TATiTok.bl32_vae(), generator)

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.codec.channels

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of one token; None of continuous latents."""
        return self.codec.space

    @property
    def tokens(self) -> int:
        """N."""
        return self.codec.tokens

    @property
    def text(self) -> MaskGenText:
        """What captions are made of for the generator."""
        return self.generator.text

    @property
    def grouping(self) -> Regrouping | None:
        """All slots of a token as one code, which the generator reads; None of continuous latents.

        Raises:
          ValueError: the generator models other tokens than the tokenizer makes, or a token has more values
            than a table can hold.
        """
        made, modelled = self.space or self.codec.width, self.generator.space or self.generator.channels
        if isinstance(made, CodeSpace) and isinstance(modelled, CodeSpace):
            return joined(made, "the generator", codes=modelled.size)
        if made != modelled:
            raise ValueError(
                f"the generator models tokens of {_alphabet(modelled)}, the tokenizer makes them of "
                f"{_alphabet(made)}; set both alike"
            )
        return None

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Images to tokens and back."""
        return self.codec.tokenizer(dtype)

    priors = ("masked",)

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `priors` by name.

        Raises:
          ValueError: another name, or see `grouping`.
        """
        if name not in self.priors:
            raise ValueError(f"prior {name!r}; choose one of {self.priors}")
        _ = self.grouping  # whether both fit
        return self.generator.prior(dtype)

    # -- use --

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return "captions"

    @property
    def caption_reading(self) -> tuple[int, str]:
        """See `ImageSystem`."""
        return self.text.length, self.text.path

    @property
    def side(self) -> int:
        """See `ImageSystem`."""
        return self.codec.image_size

    @property
    def decoder_reads_captions(self) -> bool:
        """See `ImageSystem`."""
        return self.codec.text_length > 0

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Latents of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return self.codec.encode_images(variables, images)

    def decode_images(
        self,
        variables: Any,
        latents: Latents | jax.Array,
        size: tuple[int, int] | None = None,
        text: jax.Array | Condition | None = None,
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes, see `TiTok.decode`; `text` from `decoder_text`."""
        latents, grouping = latents if isinstance(latents, Latents) else Latents(latents), self.grouping
        latents = latents if grouping is None else split(latents, grouping)
        return self.codec.decode_images(variables, latents, size, text)

    def caption_condition(self, ids: Ids, mask: Ids, frozen: Mapping[str, Any] | None = None) -> Condition:
        """The generator's condition of captions, with the empty caption as "no condition".

        Args:
          ids, mask: int32 and bool [B, T] from `jaxtok.nn.caption_ids`.
          frozen: "text", the variables of the frozen CLIP, if there is one.

        Raises:
          ValueError: captions go through a CLIP that is not there.
        """
        null = self._condition(*caption_ids([""], ids.shape[1], self.text.path), frozen)
        return dataclasses.replace(self._condition(ids, mask, frozen), null=null)

    def _condition(self, ids, mask, frozen) -> Condition:
        if self.text.source == "bytes":
            return self.generator.condition(jnp.asarray(ids), None, jnp.asarray(mask))
        features = self._clip(ids, mask, frozen)
        # The released generators read all places of a text, also those behind its end.
        return self.generator.condition(features.early, features.pooled)

    def _clip(self, ids, mask, frozen) -> ClipFeatures:
        if frozen is None or "text" not in frozen:
            raise ValueError(_NO_CLIP)
        dtype = jax.tree.leaves(frozen["text"])[0].dtype
        encoder = ClipText(self.text.clip, dtype)
        features = encoder.apply(frozen["text"], jnp.asarray(ids), jnp.asarray(mask))
        return cast(ClipFeatures, jax.lax.stop_gradient(features))

    def decoder_text(
        self, ids: Ids, mask: Ids, frozen: Mapping[str, Any] | None = None
    ) -> jax.Array | Condition | None:
        """What the decoder reads of captions, for `decode`; None if it reads nothing, see
        `caption_condition`.
        """
        if not self.codec.text_length:
            return None
        if self.text.source == "clip":
            return self._clip(ids, mask, frozen).late.astype(jnp.float32)
        return self.codec.caption_condition(ids, mask)

    def decoder_condition(
        self, batch: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> jax.Array | Condition | None:
        """What the decoder reads of a batch, for `TokenizerObjective`.

        Raises:
          ValueError: the batch has no captions, or see `caption_condition`.
        """
        _check_captions(batch)
        return self.decoder_text(batch["text"], batch["text_mask"], frozen)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition:
        """Condition of a training batch, for `PriorObjective`.

        Raises:
          ValueError: the batch has no captions, or see `caption_condition`.
        """
        _check_captions(batch)
        return self.caption_condition(batch["text"], batch["text_mask"], frozen)

    def networks(self, dtype: Any = jnp.float32) -> dict[str, FrozenNetwork]:
        """Frozen networks that both parts need: the CLIP, if any, kept and run in `dtype`."""
        text = self.text
        if text.source == "bytes":
            return {}

        def load():
            if not text.path:
                raise ValueError(_NO_CLIP)
            config, variables = load_clip_text(text.path, dtype)
            if config != text.clip:
                raise ValueError(f"{text.path} holds a CLIP of {config}, this model reads one of {text.clip}")
            return variables

        return {"text": FrozenNetwork(load, lambda: clip_text_shapes(text.clip, dtype))}

    def shapes(self) -> dict[str, Any]:
        """Variables of "tokenizer" and "masked" as shapes, nothing is allocated."""
        _ = self.grouping  # whether both fit
        return {"tokenizer": self.codec.shapes_of("tokenizer"), "masked": self.generator.shapes()}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `jaxtok.systems.image.maskgen_table`."""
        return official_components(config)


def _check_captions(batch):
    if "text" not in batch:
        raise ValueError("this model reads captions, but the batches have none; set --data.text-length")


def _alphabet(tokens: CodeSpace | int) -> str:
    return f"{tokens} channels" if isinstance(tokens, int) else f"levels {tokens.levels}"


SYSTEM = MaskGen
