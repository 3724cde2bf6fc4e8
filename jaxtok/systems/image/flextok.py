"""FlexTok: an image as 1 to 256 ordered tokens, any prefix of which decodes to a plausible image (arXiv
2502.13967, official code apple/ml-flextok).

Registers read the latents of an autoencoder (or pixels), each becomes six scalars of few levels, and a flow
transformer draws latents from noise, conditioned on the registers. Nested dropout orders them from coarse to
fine. The prior reads a token's six slots as one index of 64,000.

What is not here: muP's learning rates, which only matter when those of one width are used for another, and a
large frozen text encoder; a prior of captions reads their bytes. The released configurations could
not be read: what they leave open (the scaling of the latents, the layer that is aligned) is a field.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents, Regrouping
from jaxtok.decoding.flow import FlowSettings
from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.grid_positions import PositionKind, Scaling
from jaxtok.nn.images import to_float
from jaxtok.nn.prefix_transformer import BytePrefix, ClassPrefix, PrefixTransformer
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.quantize.fsq import FSQ
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.flextok_official import official_components
from jaxtok.systems.image.kl_vae import KLVAE, kl_vae_entries
from jaxtok.systems.image.prior_shape import CaptionBytes, PriorShape
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.flow_decoder import FlowDecoder
from jaxtok.tokenizers.flow_tokenizer import FlowTokenizer, TokenCorruption
from jaxtok.tokenizers.image_tokenizer import Images
from jaxtok.tokenizers.nested_dropout import NestedDropout, prefix_mask
from jaxtok.tokenizers.registers import RegisterEncoder, RegisterMask, RegisterShape
from jaxtok.weights import FrozenNetwork, Table, load_table, read_tensors

# Layers of encoder and decoder, by the published names.
SIZES = {"d12-d12": (12, 12), "d18-d18": (18, 18), "d18-d28": (18, 28)}


@dataclasses.dataclass(frozen=True)
class FlexTok(ImageSystem):
    """Sizes of tokenizer and prior; `FlexTok.published("d18-d28")` is a released size.

    Attributes:
      image_size: side in pixels.
      channels: image channels.
      vae: autoencoder whose latents are read and drawn; None for pixels.
      patch: side of a patch of latents (or pixels).
      tokens: N, registers.
      levels: of the slots of a token.
      encoder: size of the transformer that reads.
      decoder: size of the flow transformer that draws.
      mask: who sees whom in the encoder, see `register_mask`.
      positions: of the patches in (encoder, decoder), see `GridPositions`.
      scaling: of those.
      grid: (rows, columns) of patches that there are positions for; None for those of a square image.
      segments: 2 where patches and registers are modulated apart in the decoder, else 1.
      nested: which prefixes survive in training.
      null_probability: of an image without a condition in training, which guidance needs.
      skip: probability with which an image trains on values that are not rounded, see `FSQ`.
      corruption: of tokens in training.
      align_after: block of the decoder that is aligned with a frozen encoder's features; None: off.
      align_width: width of those.
      flow: recommended settings of the flow's sampler.
      conditioning: what the prior is conditioned on: a "class", a "text" by its bytes, or "nothing".
      classes: number of classes.
      text: how a caption is read.
      prior: size of the prior.
      condition_dropout: share of the rows that train without class or text.
      prior_settings: recommended sampler settings of the prior.
    """

    image_size: int = 256
    channels: int = 3
    vae: KLVAE | None = KLVAE(16)
    patch: int = 2
    tokens: int = 256
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    encoder: RegisterShape = RegisterShape.deep(18)
    decoder: RegisterShape = RegisterShape.deep(28)
    mask: RegisterMask = "causal_last"
    positions: tuple[PositionKind, PositionKind] = ("sincos", "sincos")
    scaling: Scaling = "absolute"
    grid: tuple[int, int] | None = None
    segments: Literal[1, 2] = 2
    nested: NestedDropout = "uniform"
    null_probability: float = 0.1
    skip: float = 0.0
    corruption: TokenCorruption = TokenCorruption()
    align_after: int | None = None
    align_width: int = 1024
    flow: FlowSettings = FlowSettings()
    conditioning: Literal["class", "text", "nothing"] = "class"
    classes: int = 1000
    text: CaptionBytes = CaptionBytes()
    prior: PriorShape = PriorShape(24, 16, 64)
    condition_dropout: float = 0.1
    prior_settings: AutoregressiveSettings = AutoregressiveSettings()

    def __post_init__(self):
        unit = self.patch * (self.vae.factor if self.vae else 1)
        if self.image_size % unit:
            raise ValueError(f"image_size={self.image_size} must divide by {unit}, the pixels of a patch")
        if self.vae is not None and self.vae.channels != self.channels:
            raise ValueError(
                f"channels={self.channels}, but the autoencoder reads images of {self.vae.channels}"
            )

    @classmethod
    def published(cls, size: str) -> "FlexTok":
        """A released size: "d12-d12", "d18-d18" or "d18-d28".

        Raises:
          ValueError: another name.
        """
        if size not in SIZES:
            raise ValueError(f"no FlexTok {size!r}; there are {', '.join(SIZES)}")
        # Blocks are recomputed in the backward pass: at these sizes their inside does not fit.
        encoder, decoder = (RegisterShape.deep(layers, remat="dots") for layers in SIZES[size])
        return cls(encoder=encoder, decoder=decoder, prior=PriorShape(24, 16, 64, remat="dots"))

    @classmethod
    def tiny(cls) -> "FlexTok":
        """8x8 digits as up to 16 tokens of 64 codes, in pixels; trains in minutes on two CPU cores."""
        shape = RegisterShape(3, 2, 32, unroll=3)
        return cls(
            image_size=8,
            channels=1,
            vae=None,
            patch=4,
            tokens=16,
            levels=(4, 4, 4),
            encoder=shape,
            decoder=shape,
            nested="pow2",
            flow=FlowSettings(steps=10, guidance=1.0),
            classes=10,
            prior=PriorShape(3, 2, 32, unroll=3),
            prior_settings=AutoregressiveSettings(guidance=1.0),
        )

    # -- assembly --

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace(self.levels)

    @property
    def grouping(self) -> Regrouping:
        """All slots of a token as one index, which the prior reads."""
        return self.space.regroup((tuple(range(len(self.levels))),))

    @property
    def side(self) -> int:
        """Rows and columns of what the tokenizer reads: latents, or pixels."""
        return self.image_size // (self.vae.factor if self.vae else 1)

    def tokenizer(self, dtype: Any = jnp.float32) -> FlowTokenizer:
        """Encoder, quantizer and flow decoder."""
        rows = self.side // self.patch
        grid = self.grid or (rows, rows)
        return FlowTokenizer(
            RegisterEncoder(
                self.encoder,
                self.tokens,
                grid,
                self.patch,
                len(self.levels),
                self.mask,
                self.positions[0],
                self.scaling,
                dtype,
            ),
            FSQ(self.levels, skip=self.skip),
            FlowDecoder(
                self.decoder,
                self.tokens,
                grid,
                self.patch,
                self.vae.latents if self.vae else self.channels,
                self.segments,
                self.positions[1],
                self.scaling,
                self.align_after,
                self.align_width,
                dtype=dtype,
            ),
            (self.side, self.side),
            self.nested,
            self.null_probability,
            self.corruption,
            self.flow,
        )

    def autoregressive(self, dtype: Any = jnp.float32) -> Prior:
        """The prior of the next token, whose slots are one index."""
        shape, space = self.prior, self.grouping.space
        network = PrefixTransformer(
            space,
            (1, self.tokens),
            shape.layers,
            shape.heads,
            shape.head_dim,
            int(2 * (4 * shape.width) / 3),
            self.conditioner(dtype),
            remat=shape.remat,
            unroll=shape.unroll,
            dtype=dtype,
        )
        dropout = 0.0 if self.conditioning == "nothing" else self.condition_dropout
        return Prior(network, Autoregressive(space, dropout, self.prior_settings))

    priors = ("autoregressive",)

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `priors` by name.

        Raises:
          ValueError: another name.
        """
        if name not in self.priors:
            raise ValueError(f"prior {name!r}; choose one of {self.priors}")
        return self.autoregressive(dtype)

    def conditioner(self, dtype: Any = jnp.float32) -> ClassPrefix | BytePrefix | None:
        """What turns a class or a caption into the prior's first tokens."""
        if self.conditioning == "class":
            return ClassPrefix(self.classes, self.prior.width)
        return BytePrefix(self.text.encoder(dtype), self.prior.width) if self.conditioning == "text" else None

    # -- use --

    def read(self, variables: Any, images: Images) -> jax.Array:
        """What the tokenizer reads of uint8 or float [-1, 1] images: these, or latents of the autoencoder in
        `variables["vae"]`.
        """
        if self.vae is None:
            return jnp.asarray(to_float(images))
        return self.vae.encode(variables["vae"], images)

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return (
            "labels"
            if self.conditioning == "class"
            else "captions"
            if self.conditioning == "text"
            else "nothing"
        )

    @property
    def caption_reading(self) -> tuple[int, str]:
        """See `ImageSystem`."""
        return (self.text.length, "") if self.conditioning == "text" else (0, "")

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Latents of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        data = self.read(variables, images)
        return cast(Latents, self.tokenizer().apply(variables, data, method="encode"))

    def decode_images(
        self,
        variables: Any,
        latents: Latents | jax.Array,
        size: tuple[int, int] | None = None,
        key: jax.Array | None = None,
        settings: FlowSettings | None = None,
    ) -> jax.Array:
        """Draws float images around [-1, 1] of latents or codes, of all tokens or the first n; pure.

        Args:
          variables: of the tokenizer.
          latents: codes int32 [B, n, Q], or [B, n, 1] as the prior makes them.
          size: (height, width) in pixels; default `image_size`.
          key: of the noise, see `FlowTokenizer.decode`.
          settings: of the flow's sampler.

        Raises:
          ValueError: a size that does not divide, or see `FlowTokenizer.decode`.
        """
        latents = self.split(latents if isinstance(latents, Latents) else Latents(codes=latents))
        factor = self.vae.factor if self.vae else 1
        height, width = size or (self.image_size, self.image_size)
        if height % factor or width % factor:
            raise ValueError(f"images of {height}x{width}: both sides must divide by {factor}")
        inner = (height // factor, width // factor)
        tokenizer = self.tokenizer()
        drawn = cast(jax.Array, tokenizer.apply(variables, latents, inner, key, settings, method="decode"))
        return drawn if self.vae is None else self.vae.decode(variables["vae"], drawn)

    def decode(
        self,
        variables: Any,
        latents: Latents | jax.Array,
        *,
        batch: Mapping[str, Any] | None = None,
        frozen: Mapping[str, Any] | None = None,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """See `System.decode`; `key` draws the noise."""
        (size,) = self._reading(batch, frozen)
        return {"image": self.decode_images(variables, latents, size, key)}

    def join(self, latents: Latents) -> Latents:
        """Latents as the prior reads them: the slots of a token as one index; masks stay."""
        mask = None if latents.mask is None else jnp.all(latents.mask, axis=-1, keepdims=True)
        return Latents(codes=self.grouping.merge(latents.codes), mask=mask)

    def split(self, latents: Latents) -> Latents:
        """The inverse of `join`; other latents pass through."""
        slots = len(self.levels)
        if latents.codes is None or latents.codes.shape[-1] == slots:
            return latents
        mask = latents.mask
        if mask is not None:
            mask = jnp.broadcast_to(mask, (*mask.shape[:-1], slots))
        return Latents(codes=self.grouping.split(latents.codes), mask=mask)

    def first(self, latents: Latents, tokens: int) -> Latents:
        """Latents of which only the first tokens are there; the shape stays.

        Raises:
          ValueError: not 1 to N tokens.
        """
        if not 1 <= tokens <= self.tokens:
            raise ValueError(f"tokens={tokens} must be 1 to {self.tokens}")
        own = latents.codes if latents.codes is not None else latents.values
        mask = prefix_mask(tokens, own.shape[1])[..., None]
        mask = jnp.broadcast_to(mask, (*own.shape[:2], 1 if latents.codes is None else own.shape[-1]))
        return dataclasses.replace(latents, mask=mask if latents.mask is None else mask & latents.mask)

    def class_condition(self, labels: jax.Array) -> Condition | None:
        """The prior's condition of labels int32 [B], with its null class; None where it has none.

        Raises:
          ValueError: the prior is conditioned on captions.
        """
        if self.conditioning == "text":
            raise ValueError("this prior is conditioned on captions, not on classes; use `caption_condition`")
        conditioner = self.conditioner()
        return conditioner.condition(labels) if isinstance(conditioner, ClassPrefix) else None

    def caption_condition(
        self, ids: jax.Array, mask: jax.Array, frozen: Mapping[str, Any] | None = None
    ) -> Condition:
        """The prior's condition of captions, with the empty one as "no condition".

        Args:
          ids, mask: from `jaxtok.nn.caption_ids`, int32 and bool [B, T].
          frozen: not used.

        Raises:
          ValueError: the prior is conditioned on something else.
        """
        del frozen
        conditioner = self.conditioner()
        if not isinstance(conditioner, BytePrefix):
            raise ValueError(
                f"this prior is conditioned on {self.conditioning!r}; set conditioning='text' for captions"
            )
        return conditioner.condition(ids, mask)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition | None:
        """Condition of a training batch, for `PriorObjective`.

        Raises:
          ValueError: the prior is conditioned on captions and the batch has none.
        """
        if self.conditioning != "text":
            return None if self.conditioning == "nothing" else self.class_condition(batch["label"])
        if "text" not in batch:
            raise ValueError(
                "the prior is conditioned on captions, but the batches have none; set --data.text-length"
            )
        return self.caption_condition(batch["text"], batch["text_mask"], frozen)

    def example_condition(self) -> Condition | None:
        """A condition of the right shape, for initialisation."""
        if self.conditioning == "text":
            ids, mask = byte_ids([""], self.text.length)
            return self.caption_condition(jnp.asarray(ids), jnp.asarray(mask))
        return self.class_condition(jnp.zeros((1,), jnp.int32))

    def networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that the prior needs: none."""
        return {}

    def tokenizer_networks(self) -> dict[str, FrozenNetwork]:
        """Frozen networks that training the tokenizer needs: the autoencoder, if there is one."""
        vae = self.vae
        if vae is None:
            return {}

        def load():
            if not vae.path:
                raise ValueError("the tokenizer reads latents of an autoencoder; set --model.vae.path")
            return load_table(Table(tuple(kl_vae_entries(vae))), read_tensors(vae.path)[0], vae.shapes())[0]

        return {"vae": FrozenNetwork(load, vae.shapes)}

    def shapes(self) -> dict[str, Any]:
        """Variables of "tokenizer" and "autoregressive" as shapes, nothing is allocated."""
        key, data = jax.random.key(0), self.tokenizer()
        shape = (1, self.side, self.side, data.decoder.channels)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        times = jax.ShapeDtypeStruct((1,), jnp.float32)
        tokenizer = jax.eval_shape(lambda x, t: data.init({"params": key}, x, x=x, t=t), images, times)
        if self.vae is not None:
            tokenizer = {**tokenizer, "vae": self.vae.shapes()}
        latents = Latents(codes=jnp.zeros((1, self.tokens, 1), jnp.int32))
        prior = jax.eval_shape(self.autoregressive().init, key, latents, self.example_condition())
        return {"tokenizer": tokenizer, "autoregressive": {"params": prior}}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know; what `config` leaves out is as in d18-d28."""
        return official_components(config, FlexTok.published("d18-d28"))


SYSTEM = FlexTok
