"""The Pallas kernel for GPUs, through Triton: a gather that adds up the slots in registers."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device, power_of_two
from jaxtok.kernels.lookup.shapes import PALLAS_GPU


def _kernel(books_ref, codes_ref, out_ref):
    rows, width = out_ref.shape
    columns = pl.program_id(1) * width + jnp.arange(width, dtype=jnp.int32)[None, :]

    def add(slot, total):
        code = codes_ref[slot, :]
        return total + books_ref[slot, jnp.broadcast_to(code[:, None], (rows, width)), columns]

    out_ref[...] = jax.lax.fori_loop(0, books_ref.shape[0], add, jnp.zeros((rows, width), jnp.float32))


def look_up(
    codebooks: Float[jax.Array, "Q K D"],
    codes: Int[jax.Array, "M Q"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Float[jax.Array, "M D"]:
    """See `reference.look_up`."""
    (tokens, slots), width = codes.shape, codebooks.shape[2]
    blocks = blocks or for_device(PALLAS_GPU)
    part = min(blocks.width, power_of_two(width))
    codebooks = jnp.pad(codebooks, ((0, 0), (0, 0), (0, -width % part)))
    codes = jnp.pad(codes, ((0, -tokens % blocks.tokens), (0, 0))).T
    rows, parts = codes.shape[1] // blocks.tokens, codebooks.shape[2] // part
    out = pl.pallas_call(
        _kernel,
        grid=(rows, parts),
        in_specs=[
            pl.BlockSpec(codebooks.shape, lambda i, p: (0, 0, 0)),
            pl.BlockSpec((slots, blocks.tokens), lambda i, p: (0, i)),
        ],
        out_specs=pl.BlockSpec((blocks.tokens, part), lambda i, p: (i, p)),
        out_shape=jax.ShapeDtypeStruct((codes.shape[1], codebooks.shape[2]), jnp.float32),
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(codebooks, codes)
    return out[:tokens, :width]
