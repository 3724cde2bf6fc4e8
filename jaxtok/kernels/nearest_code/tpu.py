"""The Pallas kernel for TPUs: tokens in rows, codes in lanes, a running minimum per lane in vector memory.

Every vector of 128 codes is compared element by element with the best of the vectors before it; what is
reduced over lanes, which is slow, is the winner per lane, once per tile of tokens. The codebook comes with
its codes in the last axis: narrow codes stored the other way would be padded to 128 lanes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import LANES, Blocks, fit_tpu, for_device, whole
from jaxtok.kernels.nearest_code.shapes import PALLAS_TPU


def update_best(best_score, best_group, scores: jax.Array, first_group: int | jax.Array):
    """Compares scores [T, C] (C a multiple of 128) with the running best [T, 128] of each lane, in place.

    Args:
      best_score: reference to the lowest score so far, +inf before the first call.
      best_group: reference to the place of its vector of 128 codes.
      scores: of the next codes.
      first_group: the place of their first vector.
    """
    low, group = best_score[...], best_group[...]
    for part in range(scores.shape[1] // LANES):
        new = scores[:, part * LANES : (part + 1) * LANES]
        better = new < low  # strictly: of equals the earlier one stays
        group = jnp.where(better, first_group + part, group)
        low = jnp.where(better, new, low)
    best_score[...], best_group[...] = low, group


def reduce_lanes(best_score, best_group) -> tuple[jax.Array, jax.Array]:
    """The best of all lanes: codes int32 [1, T] and scores float32 [1, T], the lowest code of equals."""
    score, group = best_score[...].T, best_group[...].T  # tokens in lanes, as they are stored
    lowest = jnp.min(score, axis=0, keepdims=True)
    codes = group * LANES + jax.lax.broadcasted_iota(jnp.int32, group.shape, 0)
    return jnp.min(jnp.where(score == lowest, codes, jnp.iinfo(jnp.int32).max), axis=0, keepdims=True), lowest


def _kernel(z_ref, weights_ref, bias_ref, code_ref, score_ref, best_score, best_group, sum_ref, *, parts):
    step, part = pl.program_id(1), pl.program_id(2)

    @pl.when((step == 0) & (part == 0))
    def _():
        best_score[...] = jnp.full(best_score.shape, jnp.inf, jnp.float32)
        best_group[...] = jnp.zeros(best_group.shape, jnp.int32)

    # Full precision: distances rounded to bfloat16 would make neighbouring codes equal.
    product = jnp.dot(z_ref[...], weights_ref[...], precision="highest", preferred_element_type=jnp.float32)
    groups = weights_ref.shape[1] // LANES
    if parts == 1:
        update_best(best_score, best_group, product + bias_ref[...], step * groups)
    else:

        @pl.when(part == 0)
        def _():
            sum_ref[...] = product + bias_ref[...]

        @pl.when(part > 0)
        def _():
            sum_ref[...] += product

        @pl.when(part == parts - 1)
        def _():
            update_best(best_score, best_group, sum_ref[...], step * groups)

    @pl.when((step == pl.num_programs(1) - 1) & (part == parts - 1))
    def _():
        code_ref[...], score_ref[...] = reduce_lanes(best_score, best_group)


def smallest_score(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """See `reference.smallest_score`."""
    (tokens, width), codes = z.shape, weights.shape[0]
    blocks = blocks or for_device(PALLAS_TPU)
    parts = -(-width // blocks.width)
    slice_width = width if parts == 1 else whole(-(-width // parts))
    blocks = fit_tpu(blocks, tokens, codes, slice_width)
    z = jnp.pad(z, ((0, -tokens % blocks.tokens), (0, parts * slice_width - width)))
    weights = jnp.pad(weights.T, ((0, parts * slice_width - width), (0, -codes % blocks.codes)))
    bias = jnp.pad(bias, (0, -codes % blocks.codes), constant_values=jnp.inf)[None]
    rows, columns = z.shape[0] // blocks.tokens, weights.shape[1] // blocks.codes
    line = pl.BlockSpec((1, blocks.tokens), lambda i, j, p: (0, i))
    code, score = pl.pallas_call(
        functools.partial(_kernel, parts=parts),
        grid=(rows, columns, parts),
        in_specs=[
            pl.BlockSpec((blocks.tokens, slice_width), lambda i, j, p: (i, p)),
            pl.BlockSpec((slice_width, blocks.codes), lambda i, j, p: (p, j)),
            pl.BlockSpec((1, blocks.codes), lambda i, j, p: (0, j)),
        ],
        out_specs=[line, line],
        out_shape=[
            jax.ShapeDtypeStruct((1, z.shape[0]), jnp.int32),
            jax.ShapeDtypeStruct((1, z.shape[0]), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((blocks.tokens, LANES), jnp.float32),
            pltpu.VMEM((blocks.tokens, LANES), jnp.int32),
            pltpu.VMEM((blocks.tokens, blocks.codes) if parts > 1 else (8, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=interpret,
    )(z, weights, bias)
    return code[0, :tokens], score[0, :tokens]
