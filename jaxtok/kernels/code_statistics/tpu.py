"""The Pallas kernel for TPUs, whose scatter is slow: products with one-hot blocks that exist only on the
chip.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

_TOKENS, _CODES = 512, 512


def _kernel(z_ref, codes_ref, weights_ref, counts_ref, sums_ref):
    @pl.when(pl.program_id(1) == 0)
    def _():
        counts_ref[...] = jnp.zeros(counts_ref.shape, jnp.float32)
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)

    size = sums_ref.shape[0]
    first = pl.program_id(0) * size
    places = first + jax.lax.broadcasted_iota(jnp.int32, (size, codes_ref.shape[1]), 0)
    assigned = jnp.where(places == codes_ref[...], weights_ref[...], 0.0)  # [codes, tokens]
    counts_ref[...] += jnp.sum(assigned, axis=1, keepdims=True)
    sums_ref[...] += jnp.dot(
        assigned,
        z_ref[...],
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def code_sums(
    z: Float[jax.Array, "M D"],
    codes: Int[jax.Array, " M"],
    size: int,
    weights: Float[jax.Array, " M"],
    interpret: bool = False,
) -> tuple[Float[jax.Array, " K"], Float[jax.Array, "K D"]]:
    """See `reference.code_sums`."""
    tokens, width = z.shape
    rows, columns = -(-tokens // _TOKENS), -(-size // _CODES)
    padding = rows * _TOKENS - tokens
    z = jnp.pad(z, ((0, padding), (0, 0)))
    codes = jnp.pad(codes, (0, padding))[None]
    weights = jnp.pad(weights, (0, padding))[None]
    counts, sums = pl.pallas_call(
        _kernel,
        grid=(columns, rows),
        in_specs=[
            pl.BlockSpec((_TOKENS, width), lambda j, i: (i, 0)),
            pl.BlockSpec((1, _TOKENS), lambda j, i: (0, i)),
            pl.BlockSpec((1, _TOKENS), lambda j, i: (0, i)),
        ],
        out_specs=[
            pl.BlockSpec((_CODES, 1), lambda j, i: (j, 0)),
            pl.BlockSpec((_CODES, width), lambda j, i: (j, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((columns * _CODES, 1), jnp.float32),
            jax.ShapeDtypeStruct((columns * _CODES, width), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(z, codes, weights)
    return counts[:size, 0], sums[:size]
