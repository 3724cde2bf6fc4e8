"""The Pallas kernel for TPUs, which have no gather on the chip: products with one-hot blocks.

A float32 is the sum of three bfloat16 numbers, its digits cut in three. A product of ones and zeros with each
of them is exact, and so are their sums: what comes out are the numbers of the codebook, to the bit (but for
the last digits of those below 1e-30, and the sign of zero). That is half the work of a product at full
precision, which would cut the ones and zeros too. Codes must be finite: zero times infinity is not zero.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, fit_tpu, for_device, whole
from jaxtok.kernels.lookup.shapes import PALLAS_TPU

_PARTS = 3
_ROWS = 16  # of a tile of bfloat16


def _kernel(parts_ref, codes_ref, out_ref):
    slot, step = pl.program_id(2), pl.program_id(3)

    @pl.when((slot == 0) & (step == 0))
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)

    size, width = parts_ref.shape[1], out_ref.shape[0]
    places = step * size + jax.lax.broadcasted_iota(jnp.int32, (size, codes_ref.shape[1]), 0)
    one_hot = jnp.where(places == codes_ref[...], 1.0, 0.0).astype(jnp.bfloat16)  # [codes, tokens]
    found = jnp.dot(parts_ref[...], one_hot, preferred_element_type=jnp.float32)
    high, middle, low = (found[part * width : (part + 1) * width] for part in range(_PARTS))
    out_ref[...] += high + middle + low


def digits(x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "3 *shape"]:
    """Three bfloat16 numbers whose sum is `x`: cut, because rounding takes the largest to infinity."""
    parts = []
    for _ in range(_PARTS):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
        part = jax.lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))
        x = x - part
    return jnp.stack(parts)


def look_up(
    codebooks: Float[jax.Array, "Q K D"],
    codes: Int[jax.Array, "M Q"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Float[jax.Array, "M D"]:
    """See `reference.look_up`."""
    (slots, size, width), tokens = codebooks.shape, codes.shape[0]
    blocks = blocks or for_device(PALLAS_TPU)
    slices = -(-width // blocks.width)
    slice_width = whole(-(-width // slices), _ROWS)
    blocks = fit_tpu(blocks, tokens, size, slice_width, per_feature=28, per_score=8)
    missing = -size % blocks.codes, slices * slice_width - width
    books = jnp.pad(codebooks, ((0, 0), (0, missing[0]), (0, missing[1]))).transpose(0, 2, 1)
    books = books.reshape(slots, slices, slice_width, -1)
    parts = jnp.moveaxis(digits(books), 0, 2).reshape(slots, slices, _PARTS * slice_width, -1)
    codes = jnp.pad(codes, ((0, -tokens % blocks.tokens), (0, 0))).T[:, None]
    out = pl.pallas_call(
        _kernel,
        grid=(codes.shape[2] // blocks.tokens, slices, slots, parts.shape[3] // blocks.codes),
        in_specs=[
            pl.BlockSpec((None, None, _PARTS * slice_width, blocks.codes), lambda i, p, q, j: (q, p, 0, j)),
            pl.BlockSpec((None, 1, blocks.tokens), lambda i, p, q, j: (q, 0, i)),
        ],
        out_specs=pl.BlockSpec((slice_width, blocks.tokens), lambda i, p, q, j: (p, i)),
        out_shape=jax.ShapeDtypeStruct((slices * slice_width, codes.shape[2]), jnp.float32),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
        ),
        interpret=interpret,
    )(parts, codes)
    return out[:width, :tokens].T
