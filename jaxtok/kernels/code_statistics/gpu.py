"""The Pallas kernel for GPUs, through Triton: products with one-hot blocks, as on TPUs.

Its sums are the same in every run, which atomic additions (XLA's scatter-add) do not promise. It multiplies
every token with every code, so XLA is what runs by default.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

_TOKENS, _CODES, _WIDTH = 64, 64, 64


def _kernel(z_ref, codes_ref, weights_ref, counts_ref, sums_ref):
    places = pl.program_id(0) * _CODES + jnp.arange(_CODES, dtype=jnp.int32)[:, None]

    def step(i, total):
        counts, sums = total
        at = pl.ds(i * _TOKENS, _TOKENS)
        assigned = jnp.where(places == codes_ref[at][None, :], weights_ref[at][None, :], 0.0)
        product = jnp.dot(assigned, z_ref[at, :], precision="highest")
        return counts + jnp.sum(assigned, axis=1), sums + product

    start = jnp.zeros(_CODES, jnp.float32), jnp.zeros(sums_ref.shape, jnp.float32)
    counts_ref[...], sums_ref[...] = jax.lax.fori_loop(0, z_ref.shape[0] // _TOKENS, step, start)


def code_sums(
    z: Float[jax.Array, "M D"],
    codes: Int[jax.Array, " M"],
    size: int,
    weights: Float[jax.Array, " M"],
    interpret: bool = False,
) -> tuple[Float[jax.Array, " K"], Float[jax.Array, "K D"]]:
    """See `reference.code_sums`."""
    tokens, width = z.shape
    block = min(_WIDTH, max(16, 1 << (width - 1).bit_length()))  # Triton multiplies sides of 16 or more
    blocks, parts = -(-size // _CODES), -(-width // block)
    padding = -tokens % _TOKENS
    z = jnp.pad(z, ((0, padding), (0, parts * block - width)))
    codes, weights = jnp.pad(codes.astype(jnp.int32), (0, padding)), jnp.pad(weights, (0, padding))
    line = pl.BlockSpec(codes.shape, lambda j, p: (0,))
    counts, sums = pl.pallas_call(
        _kernel,
        grid=(blocks, parts),
        in_specs=[pl.BlockSpec((z.shape[0], block), lambda j, p: (0, p)), line, line],
        out_specs=[
            # Every part of the width counts again, in a row of its own.
            pl.BlockSpec((None, _CODES), lambda j, p: (p, j)),
            pl.BlockSpec((_CODES, block), lambda j, p: (j, p)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((parts, blocks * _CODES), jnp.float32),
            jax.ShapeDtypeStruct((blocks * _CODES, parts * block), jnp.float32),
        ],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(z, codes, weights)
    return counts[0, :size], sums[:size, :width]
