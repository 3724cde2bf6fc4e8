"""Size of the transformers that are priors of image systems, and the priors of classes that several have."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxtok.codes import CodeSpace
from jaxtok.nn.conditioning import ClassConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.nn.masked_transformer import Form, MaskedTransformer, masked_vocab
from jaxtok.nn.text import ByteEncoder
from jaxtok.nn.transformer import Remat
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior


@dataclasses.dataclass(frozen=True)
class PriorShape:
    """Size of a prior.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: layers per iteration of the layer scan.
    """

    layers: int = 16
    heads: int = 16
    head_dim: int = 128
    remat: Remat = "none"
    unroll: int = 1

    @property
    def width(self) -> int:
        """Of a token."""
        return self.heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class CaptionBytes:
    """How a prior reads captions without a language model: their bytes, in an encoder that is trained along.

    Attributes:
      length: bytes of a caption; longer ones are cut.
      layers, heads, head_dim: size of the encoder.
    """

    length: int = 24
    layers: int = 2
    heads: int = 2
    head_dim: int = 32

    @property
    def path(self) -> str:
        """Folder of a language model: none."""
        return ""

    def encoder(self, dtype: Any = jnp.float32) -> ByteEncoder:
        """The encoder."""
        return ByteEncoder(self.layers, self.heads, self.head_dim, dtype=dtype)


def class_conditioner(shape: PriorShape, classes: int) -> ClassConditioner:
    """Turns classes into what the next-token prior reads, and labels into conditions with a null class."""
    return ClassConditioner(classes, shape.width)


def next_token_prior(
    shape: PriorShape,
    space: CodeSpace,
    tokens: int,
    classes: int,
    settings: AutoregressiveSettings,
    dtype: Any = jnp.float32,
) -> Prior:
    """A next-token prior, conditional on the class.

    Args:
      shape: its size.
      space: alphabet of a token.
      tokens: N.
      classes: number of classes.
      settings: recommended sampler settings.
      dtype: computation dtype.
    """
    network = LatentTransformer(
        space,
        tokens,
        shape.layers,
        shape.heads,
        shape.head_dim,
        causal=True,
        timed=False,
        conditioner=class_conditioner(shape, classes),
        remat=shape.remat,
        unroll=shape.unroll,
        dtype=dtype,
    )
    return Prior(network, Autoregressive(space, settings=settings))


def masked_network(
    shape: PriorShape,
    space: CodeSpace,
    tokens: int,
    classes: int,
    form: Form = "bert",
    dtype: Any = jnp.float32,
    hidden: int = 0,
) -> MaskedTransformer:
    """The network of a masked prior, conditional on the class, in the form of TiTok's generators.

    Args:
      shape: its size; a U-ViT has one more block.
      space: alphabet of a token.
      tokens: N.
      classes: number of classes.
      form: "bert" or "unet".
      dtype: computation dtype.
      hidden: inner width of the feed-forward halves; 0 for four times the width.
    """
    return MaskedTransformer(
        masked_vocab(space, classes),
        tokens,
        shape.layers,
        shape.heads,
        shape.head_dim,
        hidden or 4 * shape.width,
        form,
        segments=2 if form == "bert" else 0,
        remat=shape.remat,
        unroll=shape.unroll,
        dtype=dtype,
    )
