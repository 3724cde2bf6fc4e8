"""FVQ: a small transformer over the whole codebook makes the codes that are used (arXiv 2509.10140).

    e = E + bridge(E),   k(z) = argmin_k |z - e_k|^2,   q = e_k

The bridge compresses, processes and recovers: neighbouring codes are joined to patches of p codes, projected
to a few channels, mixed by transformer blocks over the K / p patches, and projected back. Every code thus
depends on every parameter, and the gradient at the few chosen codes moves all of them; the paper reports
full use of 262,144 codes. The bridge is only needed in training: `codebook()` can be stored and looked up
in.

Cost per forward pass, beside the look-up: attention over K / p patches, so (K / p)^2 scores per head and
block.

    >>> import jax
    >>> from jaxtok.quantize.bridge import FVQ
    >>> quantizer = FVQ(codes=256, width=16, patch=8)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, quantizer.space.bits
    ((4, 8, 1), 8.0)
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.quantize.linear import linear
from jaxtok.quantize.simvq import MappedCodebookQuantizer


def _norm():
    return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32)


class Block(nn.Module):
    """A pre-norm transformer block over patches of codes.

    Attributes:
      heads: of the attention.
      expansion: of the hidden layer.
    """

    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x: Float[jax.Array, "P W"]) -> Float[jax.Array, "P W"]:
        """Mixes patches, then channels."""
        width = x.shape[-1]
        split = lambda y: y.reshape(-1, self.heads, width // self.heads)
        q, k, v = jnp.split(linear(3 * width)(_norm()(x)), 3, axis=-1)
        scores = jnp.einsum("phc,qhc->hpq", split(q), split(k), precision="highest")
        weights = jax.nn.softmax(scores * (width // self.heads) ** -0.5, axis=-1)
        mixed = jnp.einsum("hpq,qhc->phc", weights, split(v), precision="highest")
        x = x + linear(width)(mixed.reshape(-1, width))
        return x + linear(width)(nn.gelu(linear(self.expansion * width)(_norm()(x))))


class Bridge(nn.Module):
    """Compress, process, recover: [K, D] to [K, D].

    Attributes:
      patch: p, codes per patch; divides K.
      hidden: channels of a patch.
      depth: number of blocks.
      heads: of the attention; divides `hidden`.
      expansion: of the blocks' hidden layers.
    """

    patch: int = 16
    hidden: int = 64
    depth: int = 2
    heads: int = 4
    expansion: int = 2

    @nn.compact
    def __call__(self, codebook: Float[jax.Array, "K D"]) -> Float[jax.Array, "K D"]:
        """What is added to the codes.

        Raises:
          ValueError: the patches do not divide the codes, or the heads the channels.
        """
        codes, width = codebook.shape
        if codes % self.patch or self.hidden % self.heads:
            raise ValueError(
                f"patch={self.patch} must divide the {codes} codes, and heads={self.heads} the "
                f"hidden={self.hidden} channels"
            )
        patches = codebook.reshape(codes // self.patch, self.patch * width)
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (patches.shape[0], self.hidden), jnp.float32
        )
        x = linear(self.hidden)(patches) + positions
        for _ in range(self.depth):
            x = Block(self.heads, self.expansion)(x)
        return linear(self.patch * width)(_norm()(x)).reshape(codes, width)


class FVQ(MappedCodebookQuantizer):
    """Vector quantization whose codebook passes a `Bridge`.

    Attributes:
      patch: codes per patch; must divide `codes`.
      hidden: channels of a patch.
      depth: number of transformer blocks.
      heads: of the attention.
      residual: whether the bridge's output is added to the codes, or replaces them.
    """

    patch: int = 16
    hidden: int = 64
    depth: int = 2
    heads: int = 4
    residual: bool = True

    def setup(self):
        init = nn.initializers.normal(self.width**-0.5)
        self.source = self.param("codebook", init, (self.codes, self.width), jnp.float32)
        self.bridge = Bridge(self.patch, self.hidden, self.depth, self.heads)

    def codebook(self) -> Float[jax.Array, "K D"]:
        """The codes behind the bridge."""
        source = jnp.asarray(self.source)
        return source + self.bridge(source) if self.residual else self.bridge(source)
