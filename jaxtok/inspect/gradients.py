"""What a token is for, by derivative: how the picture moves when a latent moves a little."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok.codes import Array
from jaxtok.inspect.decoding import grey_levels


@dataclass(frozen=True)
class GradientInfluence:
    """How a picture changes with its latents.

    Attributes:
      image: float32 [H, W, C], grey levels 0 to 255.
      change: float32 [N, H, W]: root mean square change of a pixel, in grey levels, per step of token n in a
        random direction.
    """

    image: np.ndarray
    change: np.ndarray

    @property
    def strength(self) -> np.ndarray:
        """[N] root mean square over the picture: how much each token matters."""
        return np.sqrt(np.square(self.change).mean(axis=(1, 2)))


def gradient_influence(
    decode: Callable[[jax.Array], jax.Array],
    values: Float[Array, "N D"],
    *,
    step: int | float = 1.0,
    directions: int = 32,
    seed: int = 0,
) -> GradientInfluence:
    """Derivatives of one image by its latents, through the decoder.

    The change of pixel p with token n is `step * sqrt(mean_v |J v|^2)` over unit directions v of its D
    channels, with J = d p / d z_n; over all directions this is `step * |J| / sqrt(D)`. Forward derivatives
    along a few directions cost a few decodings per token, whatever the size of the picture.

    Unlike `flip_influence` it needs no alphabet: it serves continuous latents, and embeddings of codes.

    Args:
      decode: float32 [1, N, D] -> images [1, H, W, C] in [-1, 1]; differentiable, for example `lambda z:
        model.decode(variables, Latents(values=z))`.
      values: latents of one image.
      step: length of the step that is meant, in the units of the latents.
      directions: how many random directions; if D is not more, the exact value is computed along all axes.
      seed: of the directions.
    """
    values = jnp.asarray(values, jnp.float32)
    tokens, width = values.shape
    image, push = jax.linearize(lambda z: decode(z[None])[0].astype(jnp.float32), values)
    if width <= directions:
        units = np.eye(width, dtype=np.float32)
    else:
        units = np.random.default_rng(seed).standard_normal((directions, width)).astype(np.float32)
        units /= np.linalg.norm(units, axis=1, keepdims=True)

    @jax.jit
    def of_token(token):
        moves = jnp.zeros((len(units), tokens, width)).at[:, token].set(units)
        return jnp.sqrt(jnp.mean(jnp.square(jax.vmap(push)(moves)), axis=(0, -1)))

    change = np.stack([np.asarray(of_token(token)) for token in range(tokens)])
    return GradientInfluence(grey_levels(np.asarray(image)), np.float32(127.5 * step) * change)
