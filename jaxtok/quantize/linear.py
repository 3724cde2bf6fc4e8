"""The linear maps around quantizers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.kernels.nearest_code.api import unit


def linear(features: int, use_bias: bool = True, name: str | None = None) -> nn.Dense:
    """A float32 affine map at full precision: the default product of an accelerator rounds its inputs to
    bfloat16, and a feature that crosses a decision boundary by rounding becomes another code.
    """
    return nn.Dense(
        features,
        use_bias,
        dtype=jnp.float32,
        kernel_init=nn.initializers.xavier_uniform(),
        precision="highest",
        name=name,
    )


def rotation(key: jax.Array, width: int) -> Float[jax.Array, "D D"]:
    """A random orthogonal matrix (Haar measure)."""
    return nn.initializers.orthogonal()(key, (width, width), jnp.float32)


class CosineDense(nn.Module):
    """Cosines between the input and learned directions, times a scale: a projection with bounded outputs.

    Attributes:
      features: number of directions.
      scale: factor.
    """

    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*batch D"]) -> Float[jax.Array, "*batch F"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        return jnp.dot(unit(x), unit(kernel.T).T, precision="highest") * self.scale
