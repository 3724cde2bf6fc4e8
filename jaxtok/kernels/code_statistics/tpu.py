"""The Pallas kernel for TPUs, whose scatter is slow: products with one-hot blocks that exist only on the
chip.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import LANES, Blocks, fit_tpu, for_device, whole
from jaxtok.kernels.code_statistics.shapes import PALLAS_TPU
from jaxtok.kernels.lanes import fold, row


def _kernel(z_ref, codes_ref, weights_ref, counts_ref, sums_ref, counted):
    part, step = pl.program_id(1), pl.program_id(2)

    @pl.when(step == 0)
    def _():
        counted[...] = jnp.zeros(counted.shape, jnp.float32)
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)

    size = sums_ref.shape[0]
    first = pl.program_id(0) * size
    places = first + jax.lax.broadcasted_iota(jnp.int32, (size, codes_ref.shape[1]), 0)
    assigned = jnp.where(places == codes_ref[...], weights_ref[...], 0.0)  # [codes, tokens]
    sums_ref[...] += jnp.dot(
        assigned,
        z_ref[...],
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )

    @pl.when(part == 0)
    def _():
        counted[...] += fold(assigned)

        @pl.when(step == pl.num_programs(2) - 1)
        def _():
            counts_ref[...] = row(counted[...])


def code_sums(
    z: Float[jax.Array, "M D"],
    codes: Int[jax.Array, " M"],
    size: int,
    weights: Float[jax.Array, " M"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Float[jax.Array, " K"], Float[jax.Array, "K D"]]:
    """See `reference.code_sums`."""
    tokens, width = z.shape
    blocks = blocks or for_device(PALLAS_TPU)
    parts = -(-width // blocks.width)
    part = width if parts == 1 else whole(-(-width // parts))
    blocks = fit_tpu(blocks, tokens, size, part)
    padding = -tokens % blocks.tokens
    z = jnp.pad(z, ((0, padding), (0, 0)))  # columns beyond the width go nowhere
    codes = jnp.pad(codes, (0, padding))[None]
    weights = jnp.pad(weights, (0, padding))[None]
    rows, columns = z.shape[0] // blocks.tokens, -(-size // blocks.codes)
    line = pl.BlockSpec((1, blocks.tokens), lambda j, p, i: (0, i))
    counts, sums = pl.pallas_call(
        _kernel,
        grid=(columns, parts, rows),
        in_specs=[pl.BlockSpec((blocks.tokens, part), lambda j, p, i: (i, p)), line, line],
        out_specs=[
            pl.BlockSpec((1, blocks.codes), lambda j, p, i: (0, j)),
            pl.BlockSpec((blocks.codes, part), lambda j, p, i: (j, p)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((1, columns * blocks.codes), jnp.float32),
            jax.ShapeDtypeStruct((columns * blocks.codes, width), jnp.float32),
        ],
        scratch_shapes=[pltpu.VMEM((blocks.codes, LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=interpret,
    )(z, codes, weights)
    return counts[0, :size], sums[:size]
