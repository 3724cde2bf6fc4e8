"""The XLA implementation: a tile of tokens goes through all depths before the next one starts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device
from jaxtok.kernels.nearest_code.reference import in_blocks, search
from jaxtok.kernels.nearest_code.shapes import XLA


def all_depths(
    z: Float[jax.Array, "M D"],
    codebooks: Float[jax.Array, "Q K D"],
    biases: Float[jax.Array, "Q K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """Codes of all depths and what they leave; `biases` are squared norms, `interpret` is for kernels.

    The residual of a tile stays in the cache. Tiles and blocks are those of `nearest_code`, so that results
    are the same to the bit.
    """
    blocks = blocks or for_device(XLA)
    tokens, rows = z.shape[0], blocks.tokens
    # Laid out once, not once per tile.
    books = codebooks, *jax.vmap(lambda e, b: in_blocks(-2 * e, b, blocks))(codebooks, biases)

    def tile(rows):
        def depth(residual, book):
            codebook, kernel, offsets = book
            codes, _ = search(residual, kernel, offsets)
            return residual - codebook[codes], codes

        residual, codes = jax.lax.scan(depth, rows, books)
        return codes.T, residual

    if tokens <= rows:
        return tile(z)
    padded = jnp.pad(z, ((0, -tokens % rows), (0, 0))).reshape(-1, rows, z.shape[1])
    codes, residual = jax.lax.map(tile, padded)
    return codes.reshape(-1, codes.shape[-1])[:tokens], residual.reshape(-1, z.shape[1])[:tokens]


def depth_by_depth(
    look_up: Callable[..., tuple[jax.Array, jax.Array]],
    z: Float[jax.Array, "M D"],
    codebooks: Float[jax.Array, "Q K D"],
    biases: Float[jax.Array, "Q K"],
) -> tuple[Int[jax.Array, "M Q"], Float[jax.Array, "M D"]]:
    """The same by one look-up per depth over all tokens, for features too wide to stay on a chip.

    Args:
      look_up: a `smallest_score`.
      z: features.
      codebooks: one per depth.
      biases: squared norms of the codes.
    """

    def depth(residual, book):
        codes, _ = look_up(residual, -2 * book[0], book[1])
        return residual - book[0][codes], codes

    residual, codes = jax.lax.scan(depth, z, (codebooks, biases))
    return codes.T, residual
