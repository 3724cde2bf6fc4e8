"""Feed-forward half of a transformer block."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.linear import Dense, Initializer


class FeedForward(nn.Module):
    """SwiGLU, `down(silu(gate(x)) * up(x))` (arXiv 2002.05202), GELU, `down(gelu(up(x)))` in its tanh form or
    exactly, SiLU, `down(silu(up(x)))`, or what CLIP has for GELU, `x sigmoid(1.702 x)` in its place.

    Attributes:
      hidden: inner width.
      kind: "swiglu", "gelu" (tanh form), "gelu_exact", "silu" or "gelu_quick".
      use_bias: whether the maps have biases.
      dtype: computation dtype.
      kernel_init, out_init: of the maps, and of the one that leads out.
    """

    hidden: int
    kind: str = "swiglu"
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*batch D"]) -> Float[jax.Array, "*batch D"]:
        def dense(features, name, init=self.kernel_init):
            return Dense(features, self.use_bias, self.dtype, init, name=name)

        up = dense(self.hidden, "up")(x)
        if self.kind == "swiglu":
            hidden = nn.silu(dense(self.hidden, "gate")(x)) * up
        elif self.kind in ("gelu", "gelu_exact"):
            hidden = nn.gelu(up, approximate=self.kind == "gelu")
        elif self.kind == "silu":
            hidden = nn.silu(up)
        elif self.kind == "gelu_quick":
            hidden = up * nn.sigmoid(1.702 * up)
        else:
            raise ValueError(
                f"feed-forward kind {self.kind!r}; choose 'swiglu', 'gelu', 'gelu_exact', 'silu' or "
                "'gelu_quick'"
            )
        return dense(x.shape[-1], "down", self.out_init)(hidden)
