"""Residual quantization with implicit neural codebooks (QINCo, arXiv 2401.14732): the codes of a depth depend
on what the earlier depths chose.

    c_k = MLP_i([out ; e_k])  for depth i > 0,   k = argmin_k |r - c_k|,   out += c_k,   r = x - out

The search costs the network of every code for every token, [tokens, K, D] numbers at a time: for small
codebooks. With `candidates` A (QINCo2, arXiv 2501.03078) a second, plain codebook of the depth
proposes the A codes with the nearest p_k to r, and the network sees only those; p_k learns to be the mean
residual that chose k. Gradients and decoding need the network of the chosen code alone.

    >>> import jax
    >>> from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
    >>> quantizer = NeuralResidualQuantizer(depth=3, codes=16, width=8)
    >>> z = jax.random.normal(jax.random.key(0), (2, 4, 8))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> quantizer.apply(variables, z, method="encode").shape
    (2, 4, 3)
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import nearest_code
from jaxtok.quantize.beam import nearest_codes
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
        self, codes: Float[jax.Array, "B N A D"], condition: Float[jax.Array, "B N D"]
    ) -> Float[jax.Array, "B N A D"]:
        both = [jnp.broadcast_to(condition[:, :, None], codes.shape), codes]
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
      candidates: A, how many codes the network sees when it looks for the nearest; 0 for all K.
    """

    depth: int
    codes: int
    width: int
    hidden: int = 0
    layers: int = 4
    commitment: float = 1.0
    routing: Literal["straight_through", "rotation"] = "rotation"
    candidates: int = 0

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels per depth."""
        return CodeSpace((self.codes,) * self.depth)

    def setup(self):
        if not 0 <= self.candidates <= self.codes:
            raise ValueError(
                f"candidates={self.candidates} must be in 1 .. codes={self.codes}, or 0 for all codes"
            )
        init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
        book = lambda name, i: self.param(f"{name}_{i}", init, (self.codes, self.width))
        self.books = [book("codebook", i) for i in range(self.depth)]
        if self.candidates:
            self.proposals = [book("proposal", i) for i in range(1, self.depth)]
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
          `Quantized` with losses "commitment", "codebook" and, with `candidates`, "proposal" (summed over
          depths); statistics "counts" [Q, K].
        """
        del train, key, temperature
        x, sg = masked(z.astype(jnp.float32), mask), jax.lax.stop_gradient
        residual, total, codes = x, jnp.zeros_like(x), []
        names = ("commitment", "codebook", *(("proposal",) if self.candidates and self.depth > 1 else ()))
        losses: dict[str, Any] = dict.fromkeys(names, jnp.float32(0))
        add = lambda name, a, b: self.commitment * masked_mean(jnp.square(a - b), mask) + losses[name]
        for i in range(self.depth):
            index = self._nearest(i, residual, total)
            q = self._value(i, index, total)
            losses["commitment"] = add("commitment", residual, sg(q))
            losses["codebook"] = add("codebook", sg(residual), q)
            if self.candidates and i:
                losses["proposal"] = add("proposal", sg(residual), self.proposals[i - 1][index])
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
            codes.append(self._nearest(i, residual, total))
            q = self._value(i, codes[-1], total)
            total, residual = total + q, residual - q
        return masked(jnp.stack(codes, axis=-1), mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of the codes of all depths, or of the first ones; float32."""
        total = jnp.zeros((*codes.shape[:2], self.width), jnp.float32)
        for i in range(codes.shape[-1]):
            total = total + self._value(i, codes[..., i], total)
        return total

    def _nearest(self, i, residual, total):
        """The code of a depth with the nearest value, int32 [B, N]; no gradient."""
        residual, total, book = jax.lax.stop_gradient((residual, total, self.books[i]))
        flat = residual.reshape(-1, self.width)
        if i == 0:
            return nearest_code(flat, book).reshape(residual.shape[:2])
        if self.candidates:
            proposal = jax.lax.stop_gradient(self.proposals[i - 1])
            proposed = nearest_codes(flat, proposal, self.candidates)[0].reshape(*residual.shape[:2], -1)
            codes = book[proposed]
        else:
            proposed = None
            codes = jnp.broadcast_to(book, (*residual.shape[:2], *book.shape))
        values = jax.lax.stop_gradient(self.networks[i - 1](codes, total))
        products = jnp.einsum("bnd,bnad->bna", residual, values, precision="highest")
        best = jnp.argmin(jnp.sum(jnp.square(values), axis=-1) - 2 * products, axis=-1)
        if proposed is not None:
            best = jnp.take_along_axis(proposed, best[..., None], axis=-1)[..., 0]
        return best.astype(jnp.int32)

    def _value(self, i, index, total):
        """Values of codes of a depth; the same computation in training, coding and decoding."""
        q = self.books[i][index]
        return q if i == 0 else self.networks[i - 1](q[:, :, None], total)[:, :, 0]
