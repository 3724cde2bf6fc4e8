"""Residual quantization with implicit neural codebooks (QINCo, arXiv 2401.14732): the codes of a depth depend
on what the earlier depths chose.

    c_k = MLP_i([out ; e_k])  for depth i > 0,   k = argmin_k |r - c_k|,   out += c_k,   r = x - out

The network sees every code for every token, so that a depth costs [tokens, K, D] memory: for small codebooks.

    >>> import jax
    >>> from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
    >>> quantizer = NeuralResidualQuantizer(depth=3, codes=16, width=8)
    >>> z = jax.random.normal(jax.random.key(0), (2, 4, 8))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> quantizer.apply(variables, z, method="encode").shape
    (2, 4, 3)
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, masked_mean, route


class CodeNetwork(nn.Module):
    """Codes under a condition: a linear map of both, then residual blocks.

    Attributes:
      width: D.
      hidden: width inside a block.
      layers: number of blocks.
    """

    width: int
    hidden: int
    layers: int = 4

    @nn.compact
    def __call__(
        self, codebook: Float[jax.Array, "K D"], condition: Float[jax.Array, "B N D"]
    ) -> Float[jax.Array, "B N K D"]:
        shape = (*condition.shape[:2], *codebook.shape)
        both = [jnp.broadcast_to(condition[:, :, None], shape), jnp.broadcast_to(codebook, shape)]
        x = linear(self.width, name="inward")(jnp.concatenate(both, axis=-1))
        for i in range(self.layers):
            h = nn.silu(linear(self.hidden, name=f"up_{i}")(x))
            x = x + linear(self.width, name=f"down_{i}")(h)
        return x


class NeuralResidualQuantizer(FixedStateQuantizer):
    """A residual stack whose deeper codebooks are networks.

    Attributes:
      depth: number of depths.
      codes: K of each.
      width: D.
      hidden: of the networks; 0 for 2 D.
      layers: residual blocks of the networks.
      commitment: weight of `mean |r - sg(q)|^2`, as in `VectorQuantizer`; the term that moves the codes has
        the same.
      routing: of the gradient of the values.
    """

    depth: int
    codes: int
    width: int
    hidden: int = 0
    layers: int = 4
    commitment: float = 1.0
    routing: Literal["straight_through", "rotation"] = "rotation"

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels per depth."""
        return CodeSpace((self.codes,) * self.depth)

    def setup(self):
        init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
        self.books = [self.param(f"codebook_{i}", init, (self.codes, self.width)) for i in range(self.depth)]
        hidden = self.hidden or 2 * self.width
        self.networks = [CodeNetwork(self.width, hidden, self.layers) for _ in range(self.depth - 1)]

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train, key, temperature: not used; nothing is drawn.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with losses "commitment" and "codebook" (summed over depths); statistics "counts" [Q,
          K].
        """
        del train, key, temperature
        x = z.astype(jnp.float32)
        residual, total, codes = x, jnp.zeros_like(x), []
        losses = {"commitment": jnp.float32(0), "codebook": jnp.float32(0)}
        for i in range(self.depth):
            candidates = self._candidates(i, total)
            index = self._nearest(residual, candidates)
            q = self._take(candidates, index)
            sg = jax.lax.stop_gradient
            losses["commitment"] += self.commitment * masked_mean(jnp.square(residual - sg(q)), mask)
            losses["codebook"] += self.commitment * masked_mean(jnp.square(sg(residual) - q), mask)
            total = total + route(self.routing)(residual, q)
            residual = residual - sg(q)
            codes.append(index)
        indices = masked(jnp.stack(codes, axis=-1), mask)
        counts = [
            joint_counts(indices[..., i : i + 1], (self.codes,), mask)["counts"] for i in range(self.depth)
        ]
        return Quantized(masked(total, mask), indices, losses, {"counts": jnp.stack(counts)})

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Codes, int32."""
        x = z.astype(jnp.float32)
        residual, total, codes = x, jnp.zeros_like(x), []
        for i in range(self.depth):
            candidates = self._candidates(i, total)
            codes.append(self._nearest(residual, candidates))
            q = self._take(candidates, codes[-1])
            total, residual = total + q, residual - q
        return masked(jnp.stack(codes, axis=-1), mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of the codes of all depths, or of the first ones; float32."""
        total = jnp.zeros((*codes.shape[:2], self.width), jnp.float32)
        for i in range(codes.shape[-1]):
            total = total + self._take(self._candidates(i, total), codes[..., i])
        return total

    def _candidates(self, i, total):
        return self.books[0] if i == 0 else self.networks[i - 1](self.books[i], total)

    def _nearest(self, residual, candidates):
        squares = jnp.sum(jnp.square(candidates), axis=-1)
        equation = "bnd,kd->bnk" if candidates.ndim == 2 else "bnd,bnkd->bnk"
        products = jnp.einsum(equation, residual, candidates, precision="highest")
        return jnp.argmin(squares - 2 * products, axis=-1).astype(jnp.int32)

    def _take(self, candidates, index):
        if candidates.ndim == 2:
            return candidates[index]
        return jnp.take_along_axis(candidates, index[..., None, None], axis=2)[:, :, 0]
