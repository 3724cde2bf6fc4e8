"""The public function and its XLA implementation."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose
from jaxtok.kernels.nearest_code.reference import smallest_score
from jaxtok.kernels.nearest_code.shapes import XLA, blocks_for


def residual_codes(
    z: Float[Array, "M D"],
    codebooks: Float[Array, "Q K D"],
    *,
    implementation: Implementation | None = None,
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """Codes of a residual quantizer: each depth takes the nearest code of what the earlier ones left.

    A tile of tokens goes through all depths before the next one starts, so its residual stays in the cache.

    Args:
      z: features, any float dtype.
      codebooks: one per depth.
      implementation: "xla", or None.

    Returns:
      int32 codes [M, Q] and the float32 residual after the last depth. No gradient flows.

    Raises:
      ValueError: widths that differ, or an implementation that does not exist.
    """
    choose("residual_codes", implementation, {"xla": residual_codes})
    if z.shape[-1] != codebooks.shape[-1]:
        raise ValueError(f"features {z.shape} and codebooks {codebooks.shape} differ in width")
    z, codebooks = jax.lax.stop_gradient((z.astype(jnp.float32), codebooks.astype(jnp.float32)))
    biases = jnp.sum(jnp.square(codebooks), axis=-1)

    def tile(rows, codebooks, biases):
        def depth(residual, book):
            codes, _ = smallest_score(residual, -2 * book[0], book[1])
            return residual - book[0][codes], codes

        residual, codes = jax.lax.scan(depth, rows, (codebooks, biases))
        return codes.T, residual

    def local(z, codebooks, biases):
        tokens, rows = z.shape[0], blocks_for(XLA).tokens
        if tokens <= rows:
            return tile(z, codebooks, biases)
        padded = jnp.pad(z, ((0, -tokens % rows), (0, 0))).reshape(-1, rows, z.shape[1])
        codes, residual = jax.lax.map(lambda x: tile(x, codebooks, biases), padded)
        return codes.reshape(-1, codes.shape[-1])[:tokens], residual.reshape(-1, z.shape[1])[:tokens]

    return spmd.over_tokens(local, (z,), (codebooks, biases))
