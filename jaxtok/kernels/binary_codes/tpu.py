"""The Pallas kernel for TPUs: one pass over the logits, tokens in lanes.

Bits become words in the matrix unit: a product with powers of two gives both halves of each word, exactly
(bfloat16 holds powers of two, and float32 sums of 16 of them). Statistics are added up per lane; XLA adds up
the 128 lanes at the end.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, UInt32

from jaxtok.kernels.binary_codes.reference import WORD, probability_and_entropy
from jaxtok.kernels.binary_codes.shapes import PALLAS_TPU
from jaxtok.kernels.blocks import LANES, for_device, whole
from jaxtok.kernels.lanes import fold


def _kernel(temperature_ref, logits_ref, weights_ref, powers_ref, words_ref, sums_ref):
    @pl.when(pl.program_id(1) == 0)
    def _():
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)

    logits, weights = logits_ref[...], weights_ref[...]
    real = weights > 0
    on = jnp.where((logits > 0) & real, 1.0, 0.0)
    halves = jnp.dot(powers_ref[...], on.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    halves = halves.astype(jnp.int32)
    words = words_ref.shape[0]
    words_ref[...] = halves[:words] | (halves[words : 2 * words] << (WORD // 2))
    for place, term in enumerate((on, *probability_and_entropy(logits / temperature_ref[0, 0]))):
        sums_ref[place] += fold(jnp.where(real, term * weights, 0.0))


def _powers(bits: int) -> np.ndarray:
    """[2 W, bits]: the low halves of all words, then the high ones."""
    place, words = np.arange(bits), -(-bits // WORD)
    rows = place // WORD + words * (place % WORD // (WORD // 2))
    matrix = np.zeros((2 * words, bits), np.float32)
    matrix[rows, place] = 2.0 ** (place % (WORD // 2))
    return matrix


def pack_and_sum(
    logits: Float[jax.Array, "M n"],
    weights: Float[jax.Array, " M"],
    temperature: float | jax.Array,
    interpret: bool = False,
) -> tuple[UInt32[jax.Array, "M W"], Float[jax.Array, "3 n"]]:
    """See `reference.pack_and_sum`."""
    tokens, bits = logits.shape
    words, blocks = -(-bits // WORD), for_device(PALLAS_TPU)
    block_bits = min(blocks.codes, bits)  # all of few bits: filling them up would be a pass of its own
    block_words = -(-block_bits // WORD)
    columns = -(-bits // block_bits)
    most = blocks.tokens * blocks.codes // max(block_bits, WORD) // LANES * LANES
    block = min(most, whole(tokens))
    rows = -(-tokens // block)
    # Tokens last: narrow logits stored the other way would be padded to 128 lanes.
    logits = jnp.pad(logits.T, ((0, columns * block_bits - bits), (0, rows * block - tokens)))
    weights = jnp.pad(weights, (0, rows * block - tokens))[None]
    powers = jnp.asarray(_powers(block_bits), jnp.bfloat16)
    packed, sums = pl.pallas_call(
        _kernel,
        grid=(columns, rows),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((block_bits, block), lambda j, i: (j, i)),
            pl.BlockSpec((1, block), lambda j, i: (0, i)),
            pl.BlockSpec(powers.shape, lambda j, i: (0, 0)),
        ],
        out_specs=[
            pl.BlockSpec((block_words, block), lambda j, i: (j, i)),
            pl.BlockSpec((3, block_bits, LANES), lambda j, i: (0, j, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((columns * block_words, rows * block), jnp.int32),
            jax.ShapeDtypeStruct((3, columns * block_bits, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(jnp.full((1, 1), temperature, jnp.float32), logits, weights, powers)
    packed = jax.lax.bitcast_convert_type(packed[:words, :tokens].T, jnp.uint32)
    return packed, jnp.sum(sums[:, :bits], axis=-1)
