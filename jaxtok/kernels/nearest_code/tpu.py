"""The Pallas kernel for TPUs: codes in rows, tokens in lanes, the running minimum in vector memory."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from jaxtok.kernels.nearest_code.shapes import PALLAS_TPU, Blocks, blocks_for

_LANES = 128
_BYTES = 12 * 2**20  # of vector memory for tiles; a kernel may use 16 MB by default


def _kernel(z_ref, weights_ref, bias_ref, code_ref, score_ref, best_code, best_score):
    step, size = pl.program_id(1), weights_ref.shape[0]

    @pl.when(step == 0)
    def _():
        best_score[...] = jnp.full(best_score.shape, jnp.inf, jnp.float32)
        best_code[...] = jnp.zeros(best_code.shape, jnp.int32)

    scores = jax.lax.dot_general(
        weights_ref[...],
        z_ref[...],
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    scores = scores + bias_ref[...]  # [codes, tokens] + [codes, 1]
    lowest = jnp.min(scores, axis=0, keepdims=True)
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    index = jnp.min(jnp.where(scores == lowest, places, size - 1), axis=0, keepdims=True)
    better = lowest < best_score[...]
    best_code[...] = jnp.where(better, index + step * size, best_code[...])
    best_score[...] = jnp.where(better, lowest, best_score[...])

    @pl.when(step == pl.num_programs(1) - 1)
    def _():
        code_ref[...] = best_code[...]
        score_ref[...] = best_score[...]


def _fit(blocks: Blocks, tokens: int, codes: int, width: int) -> Blocks:
    """Blocks that fit on the chip: wide features get smaller ones."""
    tile = lambda n, unit: max(unit, -(-n // unit) * unit)
    rows, columns = min(blocks.tokens, tile(tokens, _LANES)), min(blocks.codes, tile(codes, 8))
    width = tile(width, _LANES)
    # Inputs are double buffered; scores exist about three times.
    while 4 * (2 * width * (rows + columns) + 3 * rows * columns) > _BYTES and (rows > _LANES or columns > 8):
        if (columns > 8 and columns * 2 > rows) or rows <= _LANES:
            columns = max(8, columns // 2 // 8 * 8)
        else:
            rows = max(_LANES, rows // 2 // _LANES * _LANES)
    return Blocks(rows, columns)


def smallest_score(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """See `reference.smallest_score`."""
    tokens, codes = z.shape[0], weights.shape[0]
    blocks = _fit(blocks or blocks_for(PALLAS_TPU), tokens, codes, z.shape[1])
    rows, columns = -(-tokens // blocks.tokens), -(-codes // blocks.codes)
    z = jnp.pad(z, ((0, rows * blocks.tokens - tokens), (0, 0)))
    missing = columns * blocks.codes - codes
    weights = jnp.pad(weights, ((0, missing), (0, 0)))
    bias = jnp.pad(bias, (0, missing), constant_values=jnp.inf)[:, None]
    width = z.shape[1]
    line = pl.BlockSpec((1, blocks.tokens), lambda i, j: (0, i))
    code, score = pl.pallas_call(
        functools.partial(_kernel),
        grid=(rows, columns),
        in_specs=[
            pl.BlockSpec((blocks.tokens, width), lambda i, j: (i, 0)),
            pl.BlockSpec((blocks.codes, width), lambda i, j: (j, 0)),
            pl.BlockSpec((blocks.codes, 1), lambda i, j: (j, 0)),
        ],
        out_specs=[line, line],
        out_shape=[
            jax.ShapeDtypeStruct((1, rows * blocks.tokens), jnp.int32),
            jax.ShapeDtypeStruct((1, rows * blocks.tokens), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((1, blocks.tokens), jnp.int32),
            pltpu.VMEM((1, blocks.tokens), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(z, weights, bias)
    return code[0, :tokens], score[0, :tokens]
