"""Feature matching: reconstructions whose features in a discriminator are those of the originals.

    l = 1 / (K L) sum_k sum_l |D_kl(x) - D_kl(x^)|_1 [/ mean |D_kl(x)|_1]

over K discriminators and their L layers (MelGAN, arXiv 1910.06711; with the quotient EnCodec, arXiv
2210.13438, equation 3). A discriminator's mean is that over its own layers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.losses.discriminators import Discrimination

Discriminations = Discrimination | tuple[Discrimination, ...]
_FLOOR = 1e-8  # of a mean size


def feature_matching_loss(
    real: Discriminations, fake: Discriminations, relative: bool = False
) -> Float[jax.Array, ""]:
    """The loss above, float32. The gradient passes through `fake` alone.

    Args:
        real: of originals, from one discriminator or several.
        fake: of reconstructions, from the same.
        relative: every layer's distance is divided by the mean size of the real features, as in EnCodec.

    Raises:
        ValueError: other discriminators, layers or shapes than those of `real`, or no features.
    """
    losses = []
    for real_one, fake_one in zip(several(real), several(fake), strict=True):
        shapes = [[feature.shape for feature in one.features] for one in (real_one, fake_one)]
        if shapes[0] != shapes[1] or not shapes[0]:
            raise ValueError(
                f"features of shapes {shapes[0]} and {shapes[1]} are compared; they must be equal, and there "
                "must be some: use a discriminator whose `discriminate` returns features"
            )
        layers = [_distance(*pair, relative) for pair in zip(real_one.features, fake_one.features)]
        losses.append(sum(layers[1:], layers[0]) / len(layers))
    return sum(losses[1:], losses[0]) / len(losses)


def several(results: Discriminations) -> tuple[Discrimination, ...]:
    """One discriminator's result as a tuple; a tuple as it is."""
    return results if isinstance(results, tuple) else (results,)


def _distance(real: jax.Array, fake: jax.Array, relative: bool) -> jax.Array:
    real, fake = jax.lax.stop_gradient(real).astype(jnp.float32), fake.astype(jnp.float32)
    distance = jnp.mean(jnp.abs(real - fake))
    return distance / jnp.maximum(jnp.mean(jnp.abs(real)), _FLOOR) if relative else distance
