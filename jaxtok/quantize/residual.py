"""Residual quantization: each depth quantizes what the earlier ones left over.

    r_0 = x,   q_i = Q_i(r_i),   r_{i+1} = r_i - sg(q_i),   out = sum_i q_i

(SoundStream, arXiv 2107.03312; RQ-VAE, arXiv 2203.01941). The depths are any quantizers of this package:
vector quantizers with codebooks of their own or a shared one, look-up free ones with scales 2^-i, scalar ones
with scales L^-i. The slots of all depths stand one behind the other; a prefix of them is a coarser code.

    >>> import jax
    >>> from jaxtok.quantize.residual import residual_vq
    >>> quantizer = residual_vq(depth=4, codes=64, width=16, learning="ema", dropout=True)
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z, train=True, key=jax.random.key(2))
    >>> out.codes.shape, quantizer.space.bits
    ((2, 8, 4), 24.0)
    >>> coarse = quantizer.apply(variables, out.codes, 2, method="decode")
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.grouped import GroupedQuantizer as GroupedQuantizer
from jaxtok.quantize.lfq import LFQ
from jaxtok.quantize.residual_stack import ResidualQuantizer as ResidualQuantizer
from jaxtok.quantize.simvq import SimVQ
from jaxtok.quantize.stack import inner_width as inner_width
from jaxtok.quantize.vq import VectorQuantizer


def residual_vq(
    depth: int,
    codes: int | tuple[int, ...],
    width: int,
    code_width: int = 0,
    shared: bool = False,
    dropout: bool = False,
    **options: Any,
) -> ResidualQuantizer:
    """A residual vector quantizer.

    Args:
      depth: number of depths.
      codes: K, or one per depth.
      width: D of the features.
      code_width: width of the codes, with linear maps around the stack; 0 for D.
      shared: one codebook for all depths.
      dropout: see `ResidualQuantizer`.
      **options: of `VectorQuantizer`, and of `ResidualQuantizer` where it has an attribute of that name.
        `routing="directional"` is that of the stack (DiVeQ).

    Raises:
      ValueError: several sizes for a shared codebook, or another number of them than depths.
    """
    sizes = (codes,) * depth if isinstance(codes, int) else tuple(codes)
    if len(sizes) != depth or (shared and len(set(sizes)) > 1):
        raise ValueError(
            f"codes={codes} for depth={depth}, shared={shared}: give one size, or one per depth if not shared"
        )
    outer = {name: options.pop(name) for name in list(options) if name in _OUTER}
    if options.get("routing") == "directional":
        # One perturbation of the sum is all that depths learn from.
        outer["routing"] = "directional"
        options |= {"routing": "straight_through", "commitment": 0.0, "codebook_weight": 0.0}
    inner = code_width or width
    books = tuple(VectorQuantizer(k, inner, **options) for k in (sizes[:1] if shared else sizes))
    return ResidualQuantizer(books, depth, width, dropout, **outer)


_OUTER = {
    "beam",
    "beam_weights",
    "at_least",
    "multiple_of",
    "dropout_per",
    "gradient_fraction",
    "perturbation",
}


def residual_lfq(
    depth: int, bits: int, width: int = 0, soft_clamp: float = 0.0, dropout: bool = False, **options: Any
) -> ResidualQuantizer:
    """Look-up free codes with scales 2^-i: with Q depths a uniform grid of 2^Q levels per channel.

    Args:
      depth: number of depths.
      bits: channels.
      width: D of the features.
      soft_clamp: c of `c tanh(x / c)`, halved at every depth; 0 for none.
      dropout: see `ResidualQuantizer`.
      **options: of `LFQ`, and of `ResidualQuantizer` where it has an attribute of that name.
    """
    outer = {name: options.pop(name) for name in list(options) if name in _OUTER}
    stack = tuple(LFQ(bits, scale=2.0**-i, soft_clamp=soft_clamp * 2.0**-i, **options) for i in range(depth))
    return ResidualQuantizer(stack, depth, width, dropout, **outer)


def residual_fsq(
    depth: int,
    levels: tuple[int, ...],
    width: int = 0,
    pre_clamp: float | tuple[float, ...] | None = None,
    bound: Literal["tanh", "clip"] = "clip",
    dropout: bool = False,
    **outer: Any,
) -> ResidualQuantizer:
    """Symmetric scalar codes with scales L^-i per channel, so that each depth divides the bins of the one
    before.

    Args:
      depth: number of depths.
      levels: per channel.
      width: D of the features.
      pre_clamp: c of `c tanh(x / c)` before the first depth, one or per channel; default `1 + 1 / (L - 1)`
        per channel with "clip", and none with "tanh", which bounds by itself.
      bound: of the depths.
      dropout: see `ResidualQuantizer`.
      **outer: of `ResidualQuantizer`.
    """
    n = np.asarray(levels, np.float64)
    if pre_clamp is None:
        clamp = tuple(1 + 1 / (n - 1)) if bound == "clip" else ()
    else:
        clamp = pre_clamp if isinstance(pre_clamp, tuple) else (pre_clamp,) * len(levels)
    scales = tuple(tuple(n**-i) for i in range(depth))
    stack = tuple(FSQ(levels, symmetric=True, bound=bound) for _ in range(depth))
    return ResidualQuantizer(stack, depth, width, dropout, scales=scales, pre_clamp=clamp, **outer)


def residual_simvq(
    depth: int, codes: int, width: int, dropout: bool = False, **options: Any
) -> ResidualQuantizer:
    """Frozen codebooks behind learned maps, one per depth.

    Args:
      depth: number of depths.
      codes: K.
      width: D of the features.
      dropout: see `ResidualQuantizer`.
      **options: of `SimVQ`, and of `ResidualQuantizer` where it has an attribute of that name.
    """
    outer = {name: options.pop(name) for name in list(options) if name in _OUTER}
    return ResidualQuantizer(
        tuple(SimVQ(codes, width, **options) for _ in range(depth)), depth, width, dropout, **outer
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualVQConfig(QuantizerConfig):
    """Residual vector quantization: a codebook per depth, on what the earlier ones left, see `residual_vq`.

    Attributes:
      depth: number of depths, each a slot.
      codes: K, codebook size of each.
      code_width: width of the codes, with linear maps around the stack; that of the features when 0.
      shared: one codebook for all depths.
      dropout: in training, keep only the first depths, a random number of them.
      at_least: smallest number of depths that dropout keeps.
      dropout_per: one number per "example", or one for the whole "batch".
      gradient_fraction: how much of the gradient through an earlier depth's code reaches it from later ones.
      beam: paths that a search over the depths keeps; 1 for the greedy choice.
      learning: of the codebooks, see `VQConfig`.
      metric: how features and codes are compared.
      commitment: weight of the term that keeps residuals near their codes.
      decay: of moving averages.
      revive_below: share of the mean count below which a code is dead and is replaced; 0 for never.
      revival: what a dead code becomes: "split" a copy of a live one, "sample" a token of the batch.
      k_means: whether the codebooks start with k-means on the residuals of the first batch.
      routing: of the gradient: "straight_through", "rotation" or "directional".
    """

    kind = "rvq"

    depth: int = 4
    codes: int = 256
    code_width: int = 0
    shared: bool = False
    dropout: bool = False
    at_least: int = 1
    dropout_per: Literal["example", "batch"] = "example"
    gradient_fraction: float = 0.0
    beam: int = 1
    learning: Literal["gradient", "ema", "cvq", "frozen"] = "ema"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    commitment: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.0
    revival: Literal["split", "sample"] = "split"
    k_means: bool = False
    routing: Literal["straight_through", "rotation", "directional"] = "straight_through"

    def build(self, width: int) -> ResidualQuantizer:
        """See `QuantizerConfig.build`."""
        return residual_vq(width=width, **fields_of(self, without=("k_means",)))

    @property
    def codebook_from_data(self) -> bool:
        """See `QuantizerConfig.codebook_from_data`."""
        return self.k_means
