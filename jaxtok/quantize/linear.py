"""The projection around quantizers."""

import flax.linen as nn
import jax.numpy as jnp


def linear(features: int) -> nn.Dense:
    """A float32 affine map at full precision: the default product of an accelerator rounds its inputs to
    bfloat16, and a
    feature that crosses a decision boundary by rounding becomes another code."""
    return nn.Dense(
        features, dtype=jnp.float32, kernel_init=nn.initializers.xavier_uniform(), precision="highest"
    )
