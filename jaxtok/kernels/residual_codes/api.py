"""The public function."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose

_FOLDER = "jaxtok.kernels.residual_codes"
_IMPLEMENTATIONS = {
    "xla": f"{_FOLDER}.reference:all_depths",
    "pallas_tpu": f"{_FOLDER}.tpu:all_depths",
    "pallas_gpu": f"{_FOLDER}.gpu:all_depths",
}


def residual_codes(
    z: Float[Array, "M D"],
    codebooks: Float[Array, "Q K D"],
    *,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """Codes of a residual quantizer: each depth takes the nearest code of what the earlier ones left.

        r_0 = z,   k_q = argmin_k |r_q - e_qk|^2,   r_{q+1} = r_q - e_q[k_q]

    A tile of tokens goes through all depths before the next one starts, so that its residual stays on the
    chip (or in the cache). Float32 at full precision, ties as in `nearest_code`; the XLA implementation
    equals repeated `nearest_code` and subtraction to the bit. On a mesh the tokens are split over the axes
    "data" and "fsdp".

    Args:
      z: features, any float dtype.
      codebooks: one per depth.
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None for the best one here.
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      int32 codes [M, Q] and the float32 residual after the last depth. No gradient flows.

    Raises:
      ValueError: widths that differ, codebooks without codes, or an implementation that cannot run here.
    """
    z, codebooks = jnp.asarray(z), jnp.asarray(codebooks)
    if z.shape[-1] != codebooks.shape[-1]:
        raise ValueError(f"features {z.shape} and codebooks {codebooks.shape} differ in width")
    if not codebooks.shape[0] or not codebooks.shape[1]:
        raise ValueError(f"the codebooks {codebooks.shape} must be [depth, codes, width], none of them 0")
    function = choose("residual_codes", implementation, _IMPLEMENTATIONS, interpret)
    if interpret:
        function = functools.partial(function, interpret=True)
    z, codebooks = jax.lax.stop_gradient((z.astype(jnp.float32), codebooks.astype(jnp.float32)))
    if not z.shape[0]:
        return jnp.zeros((0, codebooks.shape[0]), jnp.int32), z
    return spmd.over_tokens(function, (z,), (codebooks, jnp.sum(jnp.square(codebooks), axis=-1)))
