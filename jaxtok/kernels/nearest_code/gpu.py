"""The Pallas kernel for GPUs, through Triton: one program per block of tokens walks over the codebook."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device, power_of_two
from jaxtok.kernels.nearest_code.shapes import PALLAS_GPU

SMALLEST = 16  # sides that a matrix product of Triton may have


def _kernel(z_ref, weights_ref, bias_ref, code_ref, score_ref, *, codes, slices, width):
    rows, steps = z_ref.shape[0], weights_ref.shape[0] // codes
    places = jnp.arange(codes, dtype=jnp.int32)[None, :]

    def step(j, best):
        best_code, best_score = best
        at = pl.ds(j * codes, codes)
        scores = jnp.zeros((rows, codes), jnp.float32) + bias_ref[at][None, :]
        for part in range(slices):
            columns = pl.ds(part * width, width)
            scores += jnp.dot(z_ref[:, columns], weights_ref[at, columns].T, precision="highest")
        lowest = jnp.min(scores, axis=1)
        index = jnp.min(jnp.where(scores == lowest[:, None], places, codes - 1), axis=1)
        better = lowest < best_score
        return jnp.where(better, index + j * codes, best_code), jnp.where(better, lowest, best_score)

    start = jnp.zeros(rows, jnp.int32), jnp.full(rows, jnp.inf, jnp.float32)
    code_ref[...], score_ref[...] = jax.lax.fori_loop(0, steps, step, start)


def smallest_score(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """See `reference.smallest_score`."""
    tokens, codes = z.shape[0], weights.shape[0]
    blocks = blocks or for_device(PALLAS_GPU)
    size = min(blocks.codes, max(SMALLEST, power_of_two(codes)))
    width = min(blocks.width, max(SMALLEST, power_of_two(z.shape[1])))
    slices = -(-z.shape[1] // width)
    rows, missing = -(-tokens // blocks.tokens), -codes % size
    wide = (0, slices * width - z.shape[1])
    z = jnp.pad(z, ((0, rows * blocks.tokens - tokens), wide))
    weights = jnp.pad(weights, ((0, missing), wide))
    bias = jnp.pad(bias, (0, missing), constant_values=jnp.inf)

    def kernel(*refs):
        _kernel(*refs, codes=size, slices=slices, width=width)

    line = pl.BlockSpec((blocks.tokens,), lambda i: (i,))
    code, score = pl.pallas_call(
        kernel,
        grid=(rows,),
        in_specs=[
            pl.BlockSpec((blocks.tokens, slices * width), lambda i: (i, 0)),
            pl.BlockSpec(weights.shape, lambda i: (0, 0)),
            pl.BlockSpec(bias.shape, lambda i: (0,)),
        ],
        out_specs=[line, line],
        out_shape=[
            jax.ShapeDtypeStruct((rows * blocks.tokens,), jnp.int32),
            jax.ShapeDtypeStruct((rows * blocks.tokens,), jnp.float32),
        ],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(z, weights, bias)
    return code[:tokens], score[:tokens]
