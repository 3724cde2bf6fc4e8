"""The Pallas kernel for GPUs, through Triton: a program packs one word of each of its tokens and writes sums
over them, which XLA adds up.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, UInt32

from jaxtok.kernels.binary_codes.reference import WORD, probability_and_entropy
from jaxtok.kernels.binary_codes.shapes import PALLAS_GPU
from jaxtok.kernels.blocks import for_device


def _kernel(temperature_ref, logits_ref, weights_ref, words_ref, sums_ref):
    logits, weights = logits_ref[...], weights_ref[...][:, None]
    real = weights > 0
    on = (logits > 0) & real
    places = jnp.arange(WORD, dtype=jnp.int32)[None, :]
    words_ref[...] = jnp.sum(on.astype(jnp.int32) << places, axis=1)
    terms = on.astype(jnp.float32), *probability_and_entropy(logits / temperature_ref[0])
    for place, term in enumerate(terms):
        sums_ref[place, :] = jnp.sum(jnp.where(real, term * weights, 0.0), axis=0)


def pack_and_sum(
    logits: Float[jax.Array, "M n"],
    weights: Float[jax.Array, " M"],
    temperature: float | jax.Array,
    interpret: bool = False,
) -> tuple[UInt32[jax.Array, "M W"], Float[jax.Array, "3 n"]]:
    """See `reference.pack_and_sum`."""
    (tokens, bits), block = logits.shape, for_device(PALLAS_GPU).tokens
    rows, words = -(-tokens // block), -(-bits // WORD)
    logits = jnp.pad(logits, ((0, rows * block - tokens), (0, words * WORD - bits)))
    weights = jnp.pad(weights, (0, rows * block - tokens))
    packed, sums = pl.pallas_call(
        _kernel,
        grid=(rows, words),
        in_specs=[
            pl.BlockSpec((1,), lambda i, j: (0,)),
            pl.BlockSpec((block, WORD), lambda i, j: (i, j)),
            pl.BlockSpec((block,), lambda i, j: (i,)),
        ],
        out_specs=[
            pl.BlockSpec((None, block), lambda i, j: (j, i)),
            pl.BlockSpec((None, 4, WORD), lambda i, j: (i, 0, j)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((words, rows * block), jnp.int32),
            # Sides of Triton's blocks are powers of two: the fourth row is not written.
            jax.ShapeDtypeStruct((rows, 4, words * WORD), jnp.float32),
        ],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(jnp.full((1,), temperature, jnp.float32), logits, weights)
    packed = jax.lax.bitcast_convert_type(packed[:, :tokens].T, jnp.uint32)
    return packed, jnp.sum(sums[:, :3, :bits], axis=0)
