"""One small instance of every quantizer, for tests that all of them must pass."""

from jaxtok.quantize.binary import BinaryQuantizer
from jaxtok.quantize.binary_mapper import BinaryMapper
from jaxtok.quantize.bridge import FVQ
from jaxtok.quantize.clustering import KMeansQuantizer
from jaxtok.quantize.dimension_bins import DimensionBins
from jaxtok.quantize.fsp import FSP
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.gumbel import GumbelQuantizer
from jaxtok.quantize.ibq import IBQ
from jaxtok.quantize.latent import LatentQuantizer
from jaxtok.quantize.lfq import LFQ
from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
from jaxtok.quantize.random_projection import RandomProjectionQuantizer
from jaxtok.quantize.residual import (
    GroupedQuantizer,
    ResidualQuantizer,
    residual_fsq,
    residual_lfq,
    residual_vq,
)
from jaxtok.quantize.simvq import SimVQ
from jaxtok.quantize.vq import VectorQuantizer

WIDTH = 8


def vq(**options):
    return VectorQuantizer(codes=7, width=WIDTH, **options)


QUANTIZERS = {
    "binary": BinaryQuantizer(bits=5, width=WIDTH),
    "gradient": vq(),
    "ema": vq(learning="ema"),
    "projected": vq(code_width=3),
    "projected ema": vq(code_width=3, learning="ema"),
    "cosine": vq(metric="cosine", code_width=4, learning="ema", revive_below=0.5),
    "rotation": vq(routing="rotation", normalise_projected=True, code_width=4),
    "directional": vq(routing="directional"),
    "revived by samples": vq(learning="ema", revive_below=0.9, revival="sample"),
    "product": vq(slots=2, learning="ema", revive_below=0.5),
    "shared product": vq(slots=4, share_codebook=True, learning="ema"),
    "sampled": vq(sample_temperature=0.5, diversity_weight=0.1, commitment_form="cross_entropy"),
    "orthogonal": vq(orthogonal_weight=1.0, optimistic=0.3),
    "affine": vq(affine=True, learning="ema"),
    "cvq": vq(learning="cvq"),
    "cvq product": vq(learning="cvq", slots=2),
    "gradient revived": vq(revive_below=0.9, revival="sample", slots=2),
    "revived in tokens": vq(learning="ema", revive_below=1.0, revive_unit="tokens", revival="sample"),
    "affine gradient": vq(affine=True),
    "affine product": vq(affine=True, learning="ema", slots=2),
    "orthogonal subset": vq(orthogonal_weight=1.0, orthogonal_active=True, orthogonal_codes=4),
    "residual dropout": residual_vq(3, 7, WIDTH, learning="ema", dropout=True),
    "residual shared samples": residual_vq(
        3, 7, WIDTH, shared=True, learning="ema", revive_below=0.9, revival="sample"
    ),
    "residual shared gradient": residual_vq(2, 7, WIDTH, shared=True),
    "residual directional": residual_vq(2, 7, WIDTH, routing="directional"),
    "residual mixed": ResidualQuantizer((VectorQuantizer(7, WIDTH), LFQ(WIDTH, scale=0.5))),
    "grouped dropout": GroupedQuantizer(tuple(residual_vq(2, 7, WIDTH // 2, dropout=True) for _ in range(2))),
    "residual": residual_vq(3, 7, WIDTH, learning="ema"),
    "residual gradient": residual_vq(2, (7, 5), WIDTH, code_width=4, gradient_fraction=0.5),
    "residual shared": residual_vq(3, 7, WIDTH, shared=True, learning="ema", revive_below=0.3),
    "residual beam": residual_vq(3, 7, WIDTH, learning="ema", beam=3),
    "residual lfq": residual_lfq(3, 4, WIDTH, soft_clamp=2.0),
    "residual fsq": residual_fsq(2, (5, 4), WIDTH),
    "residual neural": NeuralResidualQuantizer(2, 7, WIDTH, hidden=6, layers=1),
    "grouped residual": GroupedQuantizer(
        tuple(residual_vq(2, 7, WIDTH // 2, learning="ema") for _ in range(2))
    ),
    "fsq": FSQ((8, 5, 3), WIDTH),
    "fsq symmetric": FSQ((2, 3, 4), WIDTH, symmetric=True, noise=0.5, rotated=True),
    "fsq clipped groups": FSQ((4, 5), WIDTH, groups=2, bound="clip"),
    "fsp": FSP((8, 5, 3), WIDTH, "normal", quantize_rate=0.5, regulariser="kurtosis"),
    "fsp inverse": FSP((8, 5, 3), WIDTH, "laplace", inverse=True),
    "lfq": LFQ(4, 2, WIDTH),
    "lfq projected": LFQ(5, 1, WIDTH, projection="cosine", soft_clamp=1.5, softplus_offset=2.0),
    "bsq": LFQ(5, 1, WIDTH, spherical=True, batch_entropy="factorised", rotated=True),
    "wetok": LFQ(4, 2, WIDTH, batch_entropy="pooled", log_floor="add"),
    "simvq": SimVQ(codes=16, width=WIDTH),
    "simvq network": SimVQ(16, WIDTH, code_width=5, hidden=(12,), routing="straight_through"),
    "fvq": FVQ(codes=16, width=WIDTH, patch=4, hidden=8, heads=2),
    "ibq": IBQ(codes=11, width=WIDTH),
    "gumbel": GumbelQuantizer(codes=7, width=WIDTH),
    "random projection": RandomProjectionQuantizer(codes=16, width=WIDTH, code_width=4, slots=2),
    "latent": LatentQuantizer((4, 7, 5), WIDTH),
    "latent shared": LatentQuantizer((6, 6), WIDTH, groups=2, share_values=True),
    "binary mapper": BinaryMapper(bits=4, width=WIDTH),
    "dimension bins": DimensionBins(levels=4, width=WIDTH),
    "k-means": KMeansQuantizer(codes=7, width=WIDTH),
    "spherical k-means": KMeansQuantizer(codes=7, width=WIDTH, metric="cosine"),
}
