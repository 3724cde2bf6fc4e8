"""The public function."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.code_statistics import reference
from jaxtok.kernels.dispatch import Implementation, choose, target_platform

IMPLEMENTATIONS = {
    "xla": reference.code_sums,
    "pallas_tpu": "jaxtok.kernels.code_statistics.tpu:code_sums",
    "pallas_gpu": "jaxtok.kernels.code_statistics.gpu:code_sums",
}


def code_statistics(
    z: Float[Array, "M D"],
    codes: Int[Array, " M"],
    size: int,
    *,
    weights: jax.Array | None = None,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> tuple[Float[jax.Array, " K"], Float[jax.Array, "K D"]]:
    """Counts and feature sums of every code: what moving averages and k-means need.

    On a mesh each device adds up its own tokens, and the sums are added over the mesh. Where the axis
    "tensor" divides the codes, it splits them: a device adds up for its own codes, and has only their sums.

    Args:
      z: features, any float dtype.
      codes: the code of each token, in [0, size).
      size: K.
      weights: [M] of the tokens, such as a mask; 1 if absent.
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None for the best one here (XLA on GPUs).
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      float32 counts [K] and sums [K, D]. No gradient flows.

    Raises:
      ValueError: an implementation that cannot run here.
    """
    if implementation is None and target_platform() == "cuda":
        implementation = "xla"  # adds every token once; the kernel multiplies it with every code
    function = choose("code_statistics", implementation, IMPLEMENTATIONS, interpret)
    options = {"interpret": True} if interpret and function is not reference.code_sums else {}
    z, codes = jnp.asarray(z, jnp.float32), jnp.asarray(codes)
    weights = jnp.ones(codes.shape, jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)
    z, weights = jax.lax.stop_gradient((z, weights))
    if not codes.shape[0]:
        return jnp.zeros(size, jnp.float32), jnp.zeros((size, z.shape[1]), jnp.float32)

    axes = spmd.code_axes(size)
    part = size // spmd.devices_of(axes)

    def local(z, codes, weights):
        if axes:
            codes, there = spmd.own_codes(codes, part, axes)
            weights = weights * there
        return function(z, codes, part, weights, **options)

    return spmd.over_tokens(local, (z, codes, weights), summed=True, sum_spec=PartitionSpec(axes or None))
