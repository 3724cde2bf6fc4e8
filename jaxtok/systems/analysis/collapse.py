"""One tiny autoencoder with many quantizers, to see which of them use their alphabet.

Everything but the quantizer is equal: encoder and decoder, the number of codes, the data, the number of
steps. The arms with one code per token are

    plain             VQ with a codebook learned by gradient, no tricks (arXiv 1711.00937)
    revived           the same with moving averages, k-means at the start, and revival of dead codes
    cosine            codes of few dimensions, compared by angle (arXiv 2110.04627)
    simvq             a frozen codebook behind a learned map (arXiv 2411.02038)
    fsq               finite scalar quantization (arXiv 2309.15505)
    lfq               signs with an entropy term (arXiv 2310.05737), on the sphere (arXiv 2406.07548)
    lfq_no_diversity  the same without the entropy of the batch

and residual stacks of small codebooks: `rvq_1`, `rvq_2`, ... of these depths, and `rvq_dropout`, the
deepest one trained with a random number of depths. A quantizer of one's own is one more arm, `own`. How
they are trained and compared stands in `experiments/analysis/collapse.py`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Latents, Regrouping
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.fsq import FSQConfig
from jaxtok.quantize.lfq import BSQConfig
from jaxtok.quantize.residual import ResidualVQConfig
from jaxtok.quantize.simvq import SimVQConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.base import SystemBase
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.joined import joined
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.patch_mlp import PatchDecoder, PatchEncoder

SINGLE = ("plain", "revived", "cosine", "simvq", "fsq", "lfq", "lfq_no_diversity")
DROPOUT = "rvq_dropout"
OWN = "own"


@dataclasses.dataclass(frozen=True)
class Collapse(SystemBase):
    """Sizes of the autoencoder and settings of the quantizers.

    Attributes:
      image_size: side in pixels.
      channels: image channels.
      patch: side of a patch in pixels; a patch is a token.
      width: D, of the features.
      hidden: width of the hidden layers of encoder and decoder.
      layers: their number, in each.
      codes: K of the arms with one code per token.
      commitment: weight of the commitment term of vector quantizers.
      decay: of moving averages.
      revive_below: share of the mean count below which a code is dead.
      code_width: width of the cosine codes.
      levels: of the scalar quantizer; their product is K.
      entropy_weight: of the look-up free quantizer's entropy term.
      diversity: weight of the batch's entropy in it.
      inverse_temperature: of its soft assignments.
      residual_codes: K of each depth of the residual stacks.
      depths: of the residual stacks, rising.
      quantizer: one more arm, "own", of any alphabet of at most 2^16 values per token; none for no such arm.
    """

    image_size: int = 64
    channels: int = 1
    patch: int = 8
    width: int = 16
    hidden: int = 64
    layers: int = 2
    codes: int = 1024
    commitment: float = 0.25
    decay: float = 0.95
    revive_below: float = 0.1
    code_width: int = 8
    levels: tuple[int, ...] = (8, 8, 4, 4)
    entropy_weight: float = 0.01
    diversity: float = 1.0
    inverse_temperature: float = 10.0
    residual_codes: int = 64
    depths: tuple[int, ...] = (1, 2, 4)
    quantizer: QuantizerConfig | None = None

    def __post_init__(self):
        if math.prod(self.levels) != self.codes or 2**self.bits != self.codes:
            raise ValueError(
                f"codes={self.codes} has to be a power of 2 and the product of levels={self.levels}: the "
                "arms are compared at equal alphabets"
            )
        if not self.depths or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths={self.depths} have to rise")

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.codes.bit_length() - 1

    @property
    def tokens(self) -> int:
        """N, patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def residual(self) -> tuple[str, ...]:
        """Names of the residual arms."""
        return (*(f"rvq_{depth}" for depth in self.depths), DROPOUT)

    @property
    def single(self) -> tuple[str, ...]:
        """Names of the arms whose tokens are one code each."""
        return SINGLE if self.quantizer is None else (*SINGLE, OWN)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all arms."""
        return self.single + self.residual

    @property
    def quantizers(self) -> Mapping[str, QuantizerConfig]:
        """The quantizer of every arm."""
        averaged = {
            "learning": "ema",
            "commitment": self.commitment,
            "decay": self.decay,
            "revive_below": self.revive_below,
            "revival": "sample",
            "k_means": True,
        }
        cosine = {"code_width": self.code_width, "metric": "cosine", "commitment": self.commitment}
        signs = BSQConfig(
            bits=self.bits,
            commitment=self.commitment,
            entropy_weight=self.entropy_weight,
            diversity=self.diversity,
            inverse_temperature=self.inverse_temperature,
        )

        def stack(depth: int, dropout: bool = False) -> ResidualVQConfig:
            return ResidualVQConfig(depth=depth, codes=self.residual_codes, dropout=dropout, **averaged)

        single: dict[str, QuantizerConfig] = {
            "plain": VQConfig(codes=self.codes, commitment=self.commitment),
            "revived": VQConfig(codes=self.codes, **averaged),
            "cosine": VQConfig(codes=self.codes, **cosine),
            "simvq": SimVQConfig(codes=self.codes, commitment=self.commitment),
            "fsq": FSQConfig(levels=self.levels),
            "lfq": signs,
            "lfq_no_diversity": dataclasses.replace(signs, diversity=0.0),
        }
        own = {} if self.quantizer is None else {OWN: self.quantizer}
        stacks = {f"rvq_{depth}": stack(depth) for depth in self.depths}
        return single | own | stacks | {DROPOUT: stack(self.depths[-1], dropout=True)}

    def quantizer_of(self, name: str) -> QuantizerConfig:
        """The quantizer of an arm.

        Raises:
          ValueError: there is no such arm.
        """
        if name not in self.arms:
            raise ValueError(f"no arm {name!r}; there are {self.arms}")
        return self.quantizers[name]

    def from_data(self, name: str) -> bool:
        """Whether the codebook of an arm starts with k-means."""
        return self.quantizer_of(name).codebook_from_data

    def arm(self, name: str) -> "PatchAutoencoder":
        """One arm, to encode and decode with."""
        return PatchAutoencoder(self, name)

    def shapes(self) -> dict[str, Any]:
        """Variables of every arm as shapes; nothing is allocated."""
        side = self.image_size
        images = jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)
        key = jax.random.key(0)
        return {
            name: jax.eval_shape(self.arm(name).tokenizer().init, {"params": key}, images)
            for name in self.arms
        }


@dataclasses.dataclass(frozen=True)
class PatchAutoencoder(ImageSystem):
    """The autoencoder with one of the quantizers.

    Attributes:
      sizes: of everything.
      name: of the arm.
    """

    sizes: Collapse
    name: str

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        s = self.sizes
        features = s.quantizer_of(self.name).features(s.width)
        return ImageTokenizer(
            PatchEncoder(s.tokens, s.patch, features, s.hidden, s.layers, dtype),
            s.quantizer_of(self.name).build(s.width),
            PatchDecoder(s.patch, s.hidden, s.layers, s.channels, dtype),
            (s.image_size, s.image_size),
        )

    @property
    def depth(self) -> int:
        """Codes per token."""
        return self.space.slots

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token: a scalar quantizer's slots are one code, those of a residual stack are not."""
        return self._own_space if self.name in self.sizes.residual else self._grouping.space

    @property
    def _own_space(self) -> CodeSpace:
        return self.sizes.quantizer_of(self.name).code_space(self.sizes.width)

    @property
    def _grouping(self) -> Regrouping:
        return joined(self._own_space, f"the comparison of {self.name!r} with the other arms")

    def encode_images(self, variables: Any, images: Any) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]."""
        latents = cast(Latents, self.tokenizer().apply(variables, images, method="encode"))
        if self.name in self.sizes.residual:
            return latents
        return dataclasses.replace(latents, codes=self._grouping.merge(latents.codes))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of latents or codes; of a residual stack also of its first codes."""
        codes = latents.codes if isinstance(latents, Latents) else latents
        if self.name not in self.sizes.residual:
            codes = self._grouping.split(codes)
        return cast(jax.Array, self.tokenizer().apply(variables, codes, size, method="decode"))


@dataclasses.dataclass(frozen=True)
class CodeCounter:
    """Counts the codes of trained autoencoders, all on the same images; for `streaming_estimator`.

    Attributes:
      models: stage and its autoencoder.
    """

    models: tuple[tuple[str, PatchAutoencoder], ...]

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> dict[str, jax.Array]:
        """No counts yet: float32 [Q, K] of every arm."""
        del key, batch, frozen
        return {name: jnp.zeros((m.space.slots, m.space.levels[0]), jnp.float32) for name, m in self.models}

    def update(
        self, params: dict[str, jax.Array], batch: Any, frozen: Any, keys: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Adds the codes of a batch."""
        del keys
        new = {}
        for name, model in self.models:
            codes = cast(jax.Array, model.encode(frozen[name], batch).codes)
            slots = jnp.broadcast_to(jnp.arange(codes.shape[-1]), codes.shape)
            new[name] = params[name].at[slots, codes].add(1.0)
        return new, {"tokens": jnp.sum(new[self.models[0][0]])}
