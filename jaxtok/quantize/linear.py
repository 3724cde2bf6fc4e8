"""The linear maps around quantizers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float


def linear(features: int, use_bias: bool = True) -> nn.Dense:
    """A float32 affine map at full precision: the default product of an accelerator rounds its inputs to
    bfloat16, and a feature that crosses a decision boundary by rounding becomes another code.
    """
    return nn.Dense(
        features,
        use_bias,
        dtype=jnp.float32,
        kernel_init=nn.initializers.xavier_uniform(),
        precision="highest",
    )


def rotation(key: jax.Array, width: int) -> Float[jax.Array, "D D"]:
    """A random orthogonal matrix (Haar measure)."""
    return nn.initializers.orthogonal()(key, (width, width), jnp.float32)
