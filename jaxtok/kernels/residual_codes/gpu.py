"""The Pallas kernel for GPUs, through Triton: the residual of a block of tokens stays in registers."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device, power_of_two
from jaxtok.kernels.nearest_code.gpu import SMALLEST, smallest_score
from jaxtok.kernels.residual_codes.reference import depth_by_depth
from jaxtok.kernels.residual_codes.shapes import PALLAS_GPU


def _kernel(z_ref, codes_ref, bias_ref, code_ref, left_ref, *, size):
    rows, width = z_ref.shape
    depths, codes, _ = codes_ref.shape
    places = jnp.arange(size, dtype=jnp.int32)[None, :]
    columns = jnp.arange(width, dtype=jnp.int32)[None, :]

    def depth(q, residual):
        def step(j, best):
            at = pl.ds(j * size, size)
            product = jnp.dot(residual, codes_ref[q, at, :].T, precision="highest")
            scores = bias_ref[q, at][None, :] - 2 * product
            lowest = jnp.min(scores, axis=1)
            index = jnp.min(jnp.where(scores == lowest[:, None], places, size - 1), axis=1)
            better = lowest < best[1]
            return jnp.where(better, index + j * size, best[0]), jnp.where(better, lowest, best[1])

        start = jnp.zeros(rows, jnp.int32), jnp.full(rows, jnp.inf, jnp.float32)
        code, _ = jax.lax.fori_loop(0, codes // size, step, start)
        code_ref[q, :] = code
        return residual - codes_ref[q, jnp.broadcast_to(code[:, None], (rows, width)), columns]

    left_ref[...] = jax.lax.fori_loop(0, depths, depth, z_ref[...])


def all_depths(
    z: Float[jax.Array, "M D"],
    codebooks: Float[jax.Array, "Q K D"],
    biases: Float[jax.Array, "Q K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """See `reference.all_depths`."""
    (tokens, width), (depths, codes, _) = z.shape, codebooks.shape
    blocks = blocks or for_device(PALLAS_GPU)
    if width > blocks.width:
        return depth_by_depth(functools.partial(smallest_score, interpret=interpret), z, codebooks, biases)
    size = min(blocks.codes, max(SMALLEST, power_of_two(codes)))
    wide = max(SMALLEST, power_of_two(width)) - width
    missing = -codes % size
    z = jnp.pad(z, ((0, -tokens % blocks.tokens), (0, wide)))
    codebooks = jnp.pad(codebooks, ((0, 0), (0, missing), (0, wide)))
    biases = jnp.pad(biases, ((0, 0), (0, missing)), constant_values=jnp.inf)
    tile = pl.BlockSpec((blocks.tokens, width + wide), lambda i: (i, 0))
    code, residual = pl.pallas_call(
        functools.partial(_kernel, size=size),
        grid=(z.shape[0] // blocks.tokens,),
        in_specs=[
            tile,
            pl.BlockSpec(codebooks.shape, lambda i: (0, 0, 0)),
            pl.BlockSpec(biases.shape, lambda i: (0, 0)),
        ],
        out_specs=[pl.BlockSpec((depths, blocks.tokens), lambda i: (0, i)), tile],
        out_shape=[
            jax.ShapeDtypeStruct((depths, z.shape[0]), jnp.int32),
            jax.ShapeDtypeStruct(z.shape, jnp.float32),
        ],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(z, codebooks, biases)
    return code.T[:tokens], residual[:tokens, :width]
