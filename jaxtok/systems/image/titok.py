"""TiTok: an image as 32 to 256 tokens of a ViT (arXiv 2406.07550, official code bytedance/1d-tokenizer).

The first released models have a head of proxy codes: their first stage predicts the codes of a frozen
MaskGIT-VQGAN, their second tunes the decoder, now followed by the VQGAN's, to pixels. Later ones write pixels
from the start, and some of them have Gaussian latents. This file says what the model is; official weights map
onto it in `titok_table`, and how it is trained stands in `experiments/image/titok.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.nn.conditioning import TextConditioner
from jaxtok.nn.masked_transformer import Form
from jaxtok.nn.text import ByteEncoder
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import MaskedSettings
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN
from jaxtok.systems.image.prior_shape import PriorShape, class_conditioner, next_token_prior
from jaxtok.systems.image.titok_maskgit import TiTokMaskGIT
from jaxtok.systems.image.titok_table import official_components
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.grid import GridDecoder
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.tokenizers.latent_vit import LatentDecoder, LatentEncoder, LatentViTShape
from jaxtok.tokenizers.proxy import ProxyDecoder
from jaxtok.weights import FrozenNetwork, load_table, read_tensors

PRIORS = ("masked", "autoregressive")


@dataclasses.dataclass(frozen=True)
class TiTok(ImageSystem):
    """Sizes of tokenizer and prior; every published size is a class method, and `titok(name)`.

    Attributes:
      image_size: side in pixels.
      channels: image channels.
      patch: side of the encoder's patches.
      decoder_patch: side of the decoder's patches.
      tokens: N, latent tokens of an image.
      quantizer: what makes latents of features: any that makes codes, or Gaussian ones.
      width: of a latent.
      encoder: size of the transformer that reads images.
      decoder: size of the transformer that writes them.
      head: "pixels", or "codes" of the teacher.
      interleaved: the layout of the first released weights, see `LatentEncoder`.
      pooled: (rows, columns) of tokens that are means of patches in place of latent tokens, for comparison; N
        in all.
      teacher: whose codes a head of codes predicts, and whose decoder makes images of them.
      teacher_path: file of its official weights; without one it is trained too.
      text_length: text tokens that the decoder reads (TA-TiTok); 0 for none.
      text_width: of their features.
      text_source: what they are: "features" of a frozen text encoder, which whoever uses the tokenizer brings
        along, or "bytes" of a caption, through a small encoder that is trained along.
      classes: of the priors' condition.
      trained: names of the priors that are trained, out of `PRIORS`; of Gaussian latents none is.
      prior: size of each of them.
      form: of the masked prior's network, "bert" or "unet".
      masked_settings: recommended sampler settings of the masked prior.
      prior_settings: those of the next-token prior.
    """

    image_size: int = 256
    channels: int = 3
    patch: int = 16
    decoder_patch: int = 16
    tokens: int = 32
    quantizer: QuantizerConfig = VQConfig(codes=4096, metric="cosine")
    width: int = 12
    encoder: LatentViTShape = LatentViTShape.named("large")
    decoder: LatentViTShape = LatentViTShape.named("large")
    head: Literal["pixels", "codes"] = "codes"
    interleaved: bool = False
    pooled: tuple[int, int] | None = None
    teacher: MaskGITVQGAN = MaskGITVQGAN.imagenet_f16_256()
    teacher_path: str = ""
    text_length: int = 0
    text_width: int = 768
    text_source: Literal["features", "bytes"] = "features"
    classes: int = 1000
    trained: tuple[Literal["masked", "autoregressive"], ...] = ("masked",)
    prior: PriorShape = PriorShape(24, 16, 48)
    form: Form = "bert"
    masked_settings: MaskedSettings = MaskedSettings.titok()
    prior_settings: AutoregressiveSettings = AutoregressiveSettings()

    def __post_init__(self):
        for name in ("patch", "decoder_patch"):
            if self.image_size % getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} does not divide image_size={self.image_size}; choose a "
                    "divisor"
                )
        if not set(self.trained) <= set(PRIORS) or len(set(self.trained)) < len(self.trained):
            raise ValueError(f"trained={self.trained} must name some of {PRIORS}, none twice")
        if self.pooled is not None and self.pooled[0] * self.pooled[1] != self.tokens:
            raise ValueError(f"pooled={self.pooled} makes another number of tokens than tokens={self.tokens}")
        if self.head == "codes" and self.space is None:
            raise ValueError(
                f"proxy codes are predicted from codes, and quantizer {self.quantizer.kind_name()!r} makes "
                "none; set head='pixels'"
            )
        if self.head == "codes" and self.quantizer.codebook_from_data:
            raise ValueError(
                "k_means=True: the stage that predicts the teacher's codes starts without k-means; set it to "
                "False, or head='pixels'"
            )
        factor = self.teacher.shape.factor
        if self.head == "codes" and factor != self.decoder_patch:
            raise ValueError(
                f"decoder_patch={self.decoder_patch} must be the {factor} pixels that a code of the teacher "
                "covers, because the decoder predicts one code per patch"
            )

    # -- sizes --

    @classmethod
    def tiny(cls) -> "TiTok":
        """8x8 digits as 8 tokens of 64 codes, straight to pixels; trains in a minute on two CPU cores."""
        vit = LatentViTShape(64, 4, 2, unroll=4)
        return cls(
            image_size=8,
            channels=1,
            patch=2,
            decoder_patch=2,
            tokens=8,
            quantizer=VQConfig(codes=64, metric="cosine", learning="cvq"),
            width=8,
            encoder=vit,
            decoder=vit,
            head="pixels",
            teacher=MaskGITVQGAN.tiny(),
            classes=10,
            prior=PriorShape(3, 2, 32, unroll=3),
            masked_settings=TiTokMaskGIT.tiny().settings,
            prior_settings=AutoregressiveSettings(guidance=1.0),
        )

    @classmethod
    def _published(cls, encoder: str, decoder: str, tokens: int, **options: Any) -> Any:
        # Blocks are recomputed in the backward pass: at these sizes their inside does not fit.
        shapes = {
            "encoder": LatentViTShape.named(encoder, remat="dots"),
            "decoder": LatentViTShape.named(decoder, remat="dots"),
            "prior": PriorShape(24, 16, 48, remat="dots"),
        }
        return cls(tokens=tokens, **{**shapes, **options})

    @classmethod
    def _single_stage(cls, encoder: str, tokens: int, **options: Any) -> Any:
        vq = {"quantizer": VQConfig(codes=8192), "width": 64}
        return cls._published(encoder, "large", tokens, head="pixels", **{**vq, **options})

    @classmethod
    def l32(cls) -> "TiTok":
        """TiTok-L-32 as released: two stages."""
        settings = TiTokMaskGIT.l32().settings
        return cls._published("large", "large", 32, interleaved=True, masked_settings=settings)

    @classmethod
    def b64(cls) -> "TiTok":
        """TiTok-B-64 as released: two stages."""
        settings = TiTokMaskGIT.b64().settings
        return cls._published("base", "base", 64, interleaved=True, masked_settings=settings)

    @classmethod
    def s128(cls) -> "TiTok":
        """TiTok-S-128 as released: two stages."""
        options = {"prior": PriorShape(20, 16, 64, remat="dots"), "form": "unet"}
        settings = TiTokMaskGIT.s128().settings
        return cls._published("small", "small", 128, interleaved=True, masked_settings=settings, **options)

    @classmethod
    def bl64_vq(cls) -> "TiTok":
        """TiTok-BL-64 with 8192 codes: one stage."""
        return cls._single_stage("base", 64)

    @classmethod
    def bl128_vq(cls) -> "TiTok":
        """TiTok-BL-128 with 8192 codes: one stage."""
        return cls._single_stage("base", 128)

    @classmethod
    def sl256_vq(cls) -> "TiTok":
        """TiTok-SL-256 with 8192 codes: one stage."""
        return cls._single_stage("small", 256)

    @classmethod
    def ll32_vae(cls) -> "TiTok":
        """TiTok-LL-32 with 16 Gaussian channels: one stage."""
        return cls._single_stage("large", 32, quantizer=GaussianConfig(), width=16)

    @classmethod
    def bl64_vae(cls) -> "TiTok":
        """TiTok-BL-64 with 16 Gaussian channels: one stage."""
        return cls._single_stage("base", 64, quantizer=GaussianConfig(), width=16)

    @classmethod
    def bl128_vae(cls) -> "TiTok":
        """TiTok-BL-128 with 16 Gaussian channels: one stage."""
        return cls._single_stage("base", 128, quantizer=GaussianConfig(), width=16)

    # -- assembly --

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of one token; None for Gaussian latents."""
        return self.quantizer.space(self.width)

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of the priors that are trained; of continuous latents none."""
        return self.trained if self.space is not None else ()

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and the decoder that makes images."""
        pixels = None
        if self.head == "codes":
            pixels = GridDecoder(self.teacher.shape, self.channels, dtype)
        return self._tokenizer(pixels, dtype)

    def proxy(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """The tokenizer of the first stage, whose decoder ends in logits of proxy codes.

        Raises:
          ValueError: a head of pixels.
        """
        if self.head != "codes":
            raise ValueError(f"head={self.head!r} has no first stage of proxy codes; set head='codes'")
        return self._tokenizer(None, dtype)

    def _tokenizer(self, pixels: GridDecoder | None, dtype: Any) -> ImageTokenizer:
        rows = self.image_size // self.decoder_patch
        encoder = TextConditioner(ByteEncoder(dtype=dtype)) if self._reads_bytes else None
        codes = self.teacher.codes if self.head == "codes" else 0
        decoder = LatentDecoder(
            self.decoder,
            (rows, rows),
            self.decoder_patch,
            self.head,
            self.channels,
            codes,
            self.text_length,
            encoder,
            dtype,
        )
        if self.head == "codes":
            decoder = ProxyDecoder(decoder, pixels, codes, self.teacher.shape.features)
        rows = self.image_size // self.patch
        return ImageTokenizer(
            LatentEncoder(
                self.encoder,
                self.tokens,
                (rows, rows),
                self.patch,
                self.quantizer.features(self.width),
                self.interleaved,
                self.pooled,
                dtype,
            ),
            self.quantizer.build(self.width),
            decoder,
            (self.image_size, self.image_size),
        )

    def generator(self) -> TiTokMaskGIT:
        """The masked prior, for these tokens and codes.

        Raises:
          ValueError: Gaussian latents, which have no codes.
        """
        shape, levels = self.prior, self._codes.levels
        return TiTokMaskGIT(
            self.tokens,
            levels[0] if len(levels) == 1 else levels,
            self.classes,
            self.form,
            shape.layers,
            shape.heads,
            shape.width,
            4 * shape.width,
            self.masked_settings,
            shape.remat,
            shape.unroll,
        )

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `PRIORS` by name, conditional on the class.

        Raises:
          ValueError: another name; Gaussian latents, which have no codes.
        """
        if name not in PRIORS:
            raise ValueError(f"prior {name!r}; choose one of {PRIORS}")
        if name == "masked":
            return self.generator().prior(dtype)
        settings = self.prior_settings
        return next_token_prior(self.prior, self._codes, self.tokens, self.classes, settings, dtype)

    @property
    def _codes(self) -> CodeSpace:
        """The alphabet, where there is one."""
        return self.quantizer.code_space(self.width)

    # -- use --

    @property
    def caption_reading(self) -> tuple[int, str]:
        """See `ImageSystem`."""
        return (self.text_length, "") if self._reads_bytes else (0, "")

    @property
    def decoder_reads_captions(self) -> bool:
        """See `ImageSystem`."""
        return self.text_length > 0

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Latents of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode_images(
        self,
        variables: Any,
        latents: Latents | jax.Array,
        size: tuple[int, int] | None = None,
        text: jax.Array | Condition | None = None,
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes; `text` if the decoder reads it: features float
        [B, T, E], or the `caption_condition` of bytes.
        """
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, text, method="decode"))

    @property
    def _reads_bytes(self) -> bool:
        return bool(self.text_length) and self.text_source == "bytes"

    def caption_condition(self, ids: jax.Array | np.ndarray, mask: jax.Array | np.ndarray) -> Condition:
        """What a decoder of "bytes" reads: int32 and bool [B, T] from `jaxtok.nn.caption_ids`."""
        return Condition(jnp.asarray(ids), jnp.asarray(mask))

    def decoder_condition(self, batch: Mapping[str, Any], frozen: Mapping[str, Any]) -> Condition | None:
        """What the decoder reads of a batch, for `TokenizerObjective`; None if it reads nothing.

        Raises:
          ValueError: the decoder reads features, or the batch has no captions.
        """
        if self.text_length and self._reads_bytes and "text" not in batch:
            raise ValueError("the decoder reads captions, but the batches have none; set --data.text-length")
        return self.decoder_text(batch.get("text"), batch.get("text_mask"), frozen)

    def decoder_text(self, ids: Any, mask: Any, frozen: Mapping[str, Any] | None = None) -> Condition | None:
        """What the decoder reads of captions, for `decode`; None if it reads nothing.

        Args:
          ids, mask: int32 and bool [B, T] from `jaxtok.nn.caption_ids`.
          frozen: not used.

        Raises:
          ValueError: the decoder reads features of an encoder that whoever uses it brings along.
        """
        del frozen
        if not self.text_length:
            return None
        if not self._reads_bytes:
            raise ValueError(
                "the text of this decoder is features of an encoder that is not here; set "
                "text_source='bytes' to train on captions"
            )
        return self.caption_condition(ids, mask)

    def class_condition(self, labels: jax.Array) -> Condition:
        """The priors' condition of labels int32 [B], with their null class; the same for both."""
        return class_conditioner(self.prior, self.classes).condition(labels)

    def networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that the priors need: none."""
        return {}

    def teacher_networks(self) -> dict[str, FrozenNetwork]:
        """The teacher, if it comes from a file."""
        if self.head == "pixels" or not self.teacher_path:
            return {}
        return {"teacher": FrozenNetwork(self._load_teacher, lambda: self.teacher.shapes()["tokenizer"])}

    def _load_teacher(self):
        component = self.teacher.official_components(None)["model"]
        params, _ = load_table(
            component.table, read_tensors(self.teacher_path)[0], component.shapes["params"]
        )
        return {"params": params}

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition:
        """Condition of a training batch, for `PriorObjective`."""
        del frozen
        return self.class_condition(batch["label"])

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all components, in the order in which they are trained: with a head of codes "teacher" and
        "proxy", then "tokenizer" and the priors.
        """
        first = () if self.head == "pixels" else ("proxy",) if self.teacher_path else ("teacher", "proxy")
        return (*first, "tokenizer", *self.priors)

    def shapes(self) -> dict[str, Any]:
        """Variables of every component as shapes, nothing is allocated."""
        return {name: self.shapes_of(name) for name in self.stages}

    def shapes_of(self, name: str) -> Any:
        """Variables of one component as shapes."""
        key = jax.random.key(0)
        if name == "teacher":
            return self.teacher.shapes()["tokenizer"]
        if name in PRIORS:
            latents = Latents(codes=jnp.zeros((1, self.tokens, self._codes.slots), jnp.int32))
            condition = self.class_condition(jnp.zeros((1,), jnp.int32))
            return {"params": jax.eval_shape(self.prior_named(name).init, key, latents, condition)}
        module, text = self.proxy() if name == "proxy" else self.tokenizer(), None
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        if self._reads_bytes:
            ids = jax.ShapeDtypeStruct((1, self.text_length), jnp.int32)
            text = Condition(ids, jax.ShapeDtypeStruct((1, self.text_length), jnp.bool_))
        elif self.text_length:
            text = jax.ShapeDtypeStruct((1, self.text_length, self.text_width), jnp.float32)
        return jax.eval_shape(lambda x, t: module.init({"params": key}, x, text=t), images, text)

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `jaxtok.systems.image.titok_table`."""
        return official_components(config, TiTok.l32())


def titok(name: str) -> TiTok:
    """A size by its published name: "l32", "b64", "s128", "bl64-vq", "ll32-vae", ...

    Raises:
      ValueError: another name.
    """
    sizes = (
        "tiny",
        "s128",
        "b64",
        "l32",
        "bl64_vq",
        "bl128_vq",
        "sl256_vq",
        "ll32_vae",
        "bl64_vae",
        "bl128_vae",
    )
    method = name.lower().replace("-", "_")
    if method not in sizes:
        raise ValueError(f"no TiTok of size {name!r}; there are {', '.join(sizes)}")
    return getattr(TiTok, method)()


SYSTEM = TiTok
