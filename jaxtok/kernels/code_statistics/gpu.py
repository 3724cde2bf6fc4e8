"""The Pallas kernel for GPUs, through Triton: products with one-hot blocks, as on TPUs.

Its sums are the same in every run, which atomic additions (XLA's scatter-add) do not promise. It multiplies
every token with every code, so XLA is what runs by default.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device, power_of_two
from jaxtok.kernels.code_statistics.shapes import PALLAS_GPU
from jaxtok.kernels.nearest_code.gpu import SMALLEST


def _kernel(z_ref, codes_ref, weights_ref, counts_ref, sums_ref, *, rows):
    size = sums_ref.shape[0]
    places = pl.program_id(0) * size + jnp.arange(size, dtype=jnp.int32)[:, None]

    def step(i, total):
        counts, sums = total
        at = pl.ds(i * rows, rows)
        assigned = jnp.where(places == codes_ref[at][None, :], weights_ref[at][None, :], 0.0)
        product = jnp.dot(assigned, z_ref[at, :], precision="highest")
        return counts + jnp.sum(assigned, axis=1), sums + product

    start = jnp.zeros(size, jnp.float32), jnp.zeros(sums_ref.shape, jnp.float32)
    counts_ref[...], sums_ref[...] = jax.lax.fori_loop(0, z_ref.shape[0] // rows, step, start)


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
    blocks = blocks or for_device(PALLAS_GPU)
    block = min(blocks.width, max(SMALLEST, power_of_two(width)))
    columns, parts = -(-size // blocks.codes), -(-width // block)
    padding = -tokens % blocks.tokens
    z = jnp.pad(z, ((0, padding), (0, parts * block - width)))
    codes, weights = jnp.pad(codes.astype(jnp.int32), (0, padding)), jnp.pad(weights, (0, padding))
    line = pl.BlockSpec(codes.shape, lambda j, p: (0,))
    counts, sums = pl.pallas_call(
        functools.partial(_kernel, rows=blocks.tokens),
        grid=(columns, parts),
        in_specs=[pl.BlockSpec((z.shape[0], block), lambda j, p: (0, p)), line, line],
        out_specs=[
            # Every part of the width counts again, in a row of its own.
            pl.BlockSpec((None, blocks.codes), lambda j, p: (p, j)),
            pl.BlockSpec((blocks.codes, block), lambda j, p: (j, p)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((parts, columns * blocks.codes), jnp.float32),
            jax.ShapeDtypeStruct((columns * blocks.codes, parts * block), jnp.float32),
        ],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(z, codes, weights)
    return counts[0, :size], sums[:size, :width]
