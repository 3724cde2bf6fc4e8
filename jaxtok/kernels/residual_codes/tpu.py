"""The Pallas kernel for TPUs: the residual of a tile of tokens stays in vector memory for all depths.

A depth walks over its codebook twice: first to find the codes, then to subtract them. There is no gather on
the chip; the product of a one-hot matrix with a block of codes is one, exact at full precision, because 1
times the three bfloat16 parts of a float32 adds up to it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import LANES, Blocks, fit_tpu, for_device
from jaxtok.kernels.nearest_code.tpu import reduce_lanes, smallest_score, update_best
from jaxtok.kernels.residual_codes.reference import depth_by_depth
from jaxtok.kernels.residual_codes.shapes import PALLAS_TPU


def _kernel(
    z_ref, codes_ref, bias_ref, code_ref, left_ref, residual, best_score, best_group, chosen, *, columns
):
    depth, step = pl.program_id(1), pl.program_id(2)
    size = codes_ref.shape[1]
    block = step % columns

    @pl.when((depth == 0) & (step == 0))
    def _():
        residual[...] = z_ref[...]

    @pl.when(step == 0)
    def _():
        best_score[...] = jnp.full(best_score.shape, jnp.inf, jnp.float32)
        best_group[...] = jnp.zeros(best_group.shape, jnp.int32)

    @pl.when(step < columns)
    def _():
        product = jnp.dot(
            residual[...], codes_ref[...], precision="highest", preferred_element_type=jnp.float32
        )
        update_best(best_score, best_group, bias_ref[...] - 2 * product, block * (size // LANES))

    @pl.when(step == columns - 1)
    def _():
        code, _ = reduce_lanes(best_score, best_group)
        code_ref[...] = code
        chosen[...] = jnp.broadcast_to(code, (LANES, code.shape[1])).T

    @pl.when(step >= columns)
    def _():
        # Once around: a token's code is in exactly one block.
        here = chosen[...] - block * size
        lanes = jax.lax.broadcasted_iota(jnp.int32, here.shape, 1)
        one_hot = jnp.concatenate(
            [(here == lanes + part * LANES).astype(jnp.float32) for part in range(size // LANES)], axis=1
        )
        residual[...] -= jax.lax.dot_general(
            one_hot,
            codes_ref[...],
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    @pl.when((depth == pl.num_programs(1) - 1) & (step == 2 * columns - 1))
    def _():
        left_ref[...] = residual[...]


def all_depths(
    z: Float[jax.Array, "M D"],
    codebooks: Float[jax.Array, "Q K D"],
    biases: Float[jax.Array, "Q K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """See `reference.all_depths`."""
    (tokens, width), (depths, codes, _) = z.shape, codebooks.shape
    blocks = blocks or for_device(PALLAS_TPU)
    if width > blocks.width:
        return depth_by_depth(functools.partial(smallest_score, interpret=interpret), z, codebooks, biases)
    blocks = fit_tpu(blocks, tokens, codes, 2 * width)
    z = jnp.pad(z, ((0, -tokens % blocks.tokens), (0, 0)))
    missing = -codes % blocks.codes
    by_width = jnp.pad(codebooks.transpose(0, 2, 1), ((0, 0), (0, 0), (0, missing)))
    offsets = jnp.pad(biases, ((0, 0), (0, missing)), constant_values=jnp.inf)[:, None]
    rows, columns = z.shape[0] // blocks.tokens, by_width.shape[2] // blocks.codes
    tile = pl.BlockSpec((blocks.tokens, width), lambda i, q, j: (i, 0))
    code, residual = pl.pallas_call(
        functools.partial(_kernel, columns=columns),
        grid=(rows, depths, 2 * columns),
        in_specs=[
            tile,
            pl.BlockSpec((None, width, blocks.codes), lambda i, q, j: (q, 0, j % columns)),
            pl.BlockSpec((None, 1, blocks.codes), lambda i, q, j: (q, 0, j % columns)),
        ],
        out_specs=[pl.BlockSpec((None, 1, blocks.tokens), lambda i, q, j: (q, 0, i)), tile],
        out_shape=[
            jax.ShapeDtypeStruct((depths, 1, z.shape[0]), jnp.int32),
            jax.ShapeDtypeStruct(z.shape, jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((blocks.tokens, width), jnp.float32),
            pltpu.VMEM((blocks.tokens, LANES), jnp.float32),
            pltpu.VMEM((blocks.tokens, LANES), jnp.int32),
            pltpu.VMEM((blocks.tokens, LANES), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=interpret,
    )(z, by_width, offsets)
    return code[:, 0, :tokens].T, residual[:tokens]
