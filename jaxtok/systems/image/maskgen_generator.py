"""MaskGen's generators: masked priors of TA-TiTok's tokens that a text tells what to draw (arXiv 2501.07730,
official code bytedance/1d-tokenizer).

There are two kinds, one over codes and one over continuous latents. This file holds their sizes and sampler
settings; official weights map onto them in `maskgen_table`.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition
from jaxtok.decoding.diffusion import GaussianDiffusion
from jaxtok.nn.clip_text import ClipTextConfig
from jaxtok.nn.conditioning import PooledConditioner, PooledTextConditioner
from jaxtok.nn.joint_transformer import JointTransformer
from jaxtok.nn.masked_joint_transformer import MaskedJointTransformer
from jaxtok.nn.masked_transformer import masked_vocab
from jaxtok.nn.masked_value_transformer import MaskedValueTransformer
from jaxtok.nn.text import ByteEncoder
from jaxtok.nn.transformer import Remat
from jaxtok.priors.contract import Prior, PriorMethod
from jaxtok.priors.masked import Masked, MaskedSettings
from jaxtok.priors.masked_values import MaskedValues, MaskedValueSettings


@dataclasses.dataclass(frozen=True)
class MaskGenText:
    """What the generator is conditioned on.

    Attributes:
      source: "clip", features of a frozen CLIP, or "bytes" of a caption, through a small encoder that is
        trained with the generator.
      length: T, tokens of a text.
      width: of the features.
      path: folder of the CLIP in Hugging Face format, with `tokenizer.json`.
      clip: its size.
      layers, heads, head_dim: size of the encoder of bytes.
    """

    source: Literal["clip", "bytes"] = "clip"
    length: int = 77
    width: int = 768
    path: str = ""
    clip: ClipTextConfig = ClipTextConfig()
    layers: int = 2
    heads: int = 2
    head_dim: int = 32


@dataclasses.dataclass(frozen=True)
class MaskGenerator:
    """Sizes of a generator; every published one is a class method.

    Attributes:
      kind: "vq", over codes, or "kl", over Gaussian latents.
      tokens: N of the tokenizer.
      codebook: K, number of its codes.
      classes: rows of the table of tokens beside codes and mask, one more than this, which nothing reads.
      tied: whether the rows of the codes are the head.
      layers: blocks.
      heads: attention heads.
      width: of a token.
      text: what it is conditioned on.
      score_width: sinusoids of the score of an image; 0 for no score.
      score: the score that is asked for, and that is taken for known of images that have none.
      condition_dropout: share of the rows that train with the empty text, which guidance needs.
      settings: recommended sampler settings over codes.
      channels: C, of a continuous latent.
      scale: factor of the latents inside the generator.
      repeats: noises that a continuous token is trained with at once.
      denoiser_layers, denoiser_width: size of the network that denoises one.
      diffusion: how noise comes to one.
      value_settings: recommended sampler settings over continuous latents.
      remat: what the backward pass recomputes.
      unroll: layers per iteration of the layer scan.
    """

    kind: Literal["vq", "kl"] = "vq"
    tokens: int = 128
    codebook: int = 8192
    classes: int = 1000
    tied: bool = True
    layers: int = 16
    heads: int = 16
    width: int = 1024
    text: MaskGenText = MaskGenText()
    score_width: int = 256
    score: float = 6.5
    condition_dropout: float = 0.1
    settings: MaskedSettings = MaskedSettings.maskgen()
    channels: int = 16
    scale: float = 0.7525
    repeats: int = 4
    denoiser_layers: int = 8
    denoiser_width: int = 1024
    diffusion: GaussianDiffusion = GaussianDiffusion()
    value_settings: MaskedValueSettings = MaskedValueSettings()
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must divide by heads={self.heads}")

    @classmethod
    def vq_l(cls) -> "MaskGenerator":
        """MaskGen-L over 128 codes: MJHQ-30K FID 7.74, GenEval 0.53."""
        return cls()

    @classmethod
    def vq_xl(cls) -> "MaskGenerator":
        """MaskGen-XL over 128 codes: MJHQ-30K FID 7.51, GenEval 0.57."""
        return cls(layers=20, width=1280)

    @classmethod
    def kl_l(cls) -> "MaskGenerator":
        """MaskGen-L over 32 continuous tokens: MJHQ-30K FID 7.24, GenEval 0.52."""
        return cls("kl", 32)

    @classmethod
    def kl_xl(cls) -> "MaskGenerator":
        """MaskGen-XL over 32 continuous tokens: MJHQ-30K FID 6.53, GenEval 0.55."""
        return cls("kl", 32, layers=20, width=1280, denoiser_width=1280)

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of one token; None of continuous latents."""
        return CodeSpace((self.codebook,)) if self.kind == "vq" else None

    def backbone(self, dtype: Any = jnp.float32) -> JointTransformer:
        """What the tokens go through."""
        text, vq = self.text, self.kind == "vq"
        conditioner: nn.Module = PooledConditioner()
        if text.source == "bytes":
            encoder = ByteEncoder(text.layers, text.heads, text.head_dim, dtype=dtype)
            conditioner = PooledTextConditioner(encoder)
        xavier, small = nn.initializers.xavier_uniform(), nn.initializers.truncated_normal(0.02)
        # Two sets of sinusoids of the same score: the released codes differ.
        return JointTransformer(
            self.layers,
            self.heads,
            self.width // self.heads,
            4 * self.width,
            conditioner,
            self.score_width,
            1000.0 if vq else 10_000.0,
            not vq,
            small if vq else xavier,
            nn.initializers.zeros if vq else xavier,
            self.remat,
            self.unroll,
            dtype,
        )

    def network(self, dtype: Any = jnp.float32) -> MaskedJointTransformer | MaskedValueTransformer:
        """The network."""
        backbone = self.backbone(dtype)
        if self.space is None:
            shape = (self.denoiser_layers, self.denoiser_width)
            return MaskedValueTransformer(self.channels, self.tokens, backbone, *shape, dtype=dtype)
        vocab = masked_vocab(self.space, self.classes)
        return MaskedJointTransformer(vocab, self.tokens, backbone, self.tied, dtype)

    def prior(self, dtype: Any = jnp.float32) -> Prior:
        """Network and method, trained as the official one: over codes with label smoothing 0.1, weight 0.1
        where nothing is masked, weights normalised over the batch.
        """
        dropout = self.condition_dropout
        if self.space is None:
            settings = self.value_settings
            method: PriorMethod = MaskedValues(
                self.scale, self.repeats, "arccos", dropout, self.diffusion, settings
            )
        else:
            method = Masked(self.space, weights="batch", condition_dropout=dropout, settings=self.settings)
        return Prior(self.network(dtype), method)

    def condition(
        self, text: jax.Array, pooled: jax.Array | None = None, mask: jax.Array | None = None
    ) -> Condition:
        """What texts say, without a null.

        Args:
          text: features float [B, T, E], or ids of bytes int32 [B, T].
          pooled: features of the whole text float [B, E]; None of bytes, whose encoder makes them.
          mask: bool [B, T], which tokens are there; None for all.
        """
        features = {"text": text}
        if pooled is not None:
            features["pooled"] = pooled
        if self.score_width:
            features["score"] = jnp.full(text.shape[0], self.score, jnp.float32)
        return Condition(features, mask)

    def example_condition(self, batch: int = 1) -> Condition:
        """A condition of the right shapes that says nothing."""
        text = self.text
        mask = jnp.ones((batch, text.length), bool)
        if text.source == "bytes":
            return self.condition(jnp.zeros((batch, text.length), jnp.int32), None, mask)
        features = jnp.zeros((batch, text.length, text.width))
        return self.condition(features, jnp.zeros((batch, text.width)), mask)

    def shapes(self) -> dict[str, Any]:
        """Variables as shapes, nothing is allocated."""
        prior, condition = self.prior(), self.example_condition()
        return {"params": jax.eval_shape(prior.init, jax.random.key(0), prior.example(), condition)}
