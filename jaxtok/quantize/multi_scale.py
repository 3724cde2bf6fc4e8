"""Multi-scale residual quantization of a grid (VAR, arXiv 2404.02905): coarse grids of codes first, each
scale coding what the coarser ones left.

    r = z,   and for every scale s:
    k_s = Q(down_s(r)),   h_s = up_s(e[k_s]),   r -= h_s,   out += h_s

Q is any quantizer of this package, usually one vector quantizer that all scales share; `down` averages areas
and `up` interpolates and convolves, see `jaxtok.quantize.pyramid`. Grids have one, two or three axes. The
codes of the scales stand one behind the other on the token axis, and any number of leading scales decodes to
a coarser version of the grid.

    >>> import jax
    >>> from jaxtok.quantize.multi_scale import multi_scale_vq
    >>> quantizer = multi_scale_vq(scales=(1, 2, 4), codes=64, width=8)
    >>> z = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.values.shape, out.codes.shape, quantizer.layout.scales
    ((2, 4, 4, 8), (2, 21, 1), ((1, 1), (2, 2), (4, 4)))
    >>> coarse = quantizer.apply(variables, out.codes[:, :5], method="decode")
"""

import dataclasses
from typing import Any

from jaxtok.quantize.multi_scale_stack import MultiScaleQuantizer as MultiScaleQuantizer
from jaxtok.quantize.pyramid import Pyramid
from jaxtok.quantize.vq import VectorQuantizer


def multi_scale_vq(
    scales: tuple[int | tuple[int, ...], ...], codes: int, width: int, shared: bool = True, **options: Any
) -> MultiScaleQuantizer:
    """A multi-scale vector quantizer.

    Args:
      scales: see `Pyramid`.
      codes: K.
      width: D of the features.
      shared: one codebook for all scales.
      **options: of `MultiScaleQuantizer` and `Pyramid` where they have an attribute of that name, otherwise
        of `VectorQuantizer`. "commitment" is that of the objective.
    """
    take = lambda module: {
        field.name: options.pop(field.name) for field in dataclasses.fields(module) if field.name in options
    }
    outer, pyramid = take(MultiScaleQuantizer), Pyramid(scales, width, **take(Pyramid))
    if outer.get("objective") == "scales" and "commitment" in outer:
        options["commitment"] = outer.pop("commitment")
    books = tuple(VectorQuantizer(codes, width, **options) for _ in range(1 if shared else len(scales)))
    return MultiScaleQuantizer(books, pyramid, **outer)
