"""Adversarial training of decoders: discriminator losses, their stabilisers and their schedule, all pure
functions.

`real` and `fake` are discriminator logits of any shape (patches, scores); every loss is their mean in
float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int


def hinge_discriminator(
    real: Float[jax.Array, "*shape"], fake: Float[jax.Array, "*shape"]
) -> Float[jax.Array, ""]:
    """`(mean relu(1 - real) + mean relu(1 + fake)) / 2` (arXiv 1705.02894; the half is VQGAN's)."""
    real, fake = _float32(real, fake)
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def hinge_generator(fake: Float[jax.Array, "*shape"]) -> Float[jax.Array, ""]:
    """`-mean fake`."""
    return -jnp.mean(fake.astype(jnp.float32))


def nonsaturating_discriminator(
    real: Float[jax.Array, "*shape"], fake: Float[jax.Array, "*shape"]
) -> Float[jax.Array, ""]:
    """`(mean softplus(-real) + mean softplus(fake)) / 2`: binary cross-entropy (arXiv 1406.2661)."""
    real, fake = _float32(real, fake)
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


def nonsaturating_generator(fake: Float[jax.Array, "*shape"]) -> Float[jax.Array, ""]:
    """`mean softplus(-fake)`: -log D, whose gradient does not vanish where the discriminator is sure."""
    return jnp.mean(jax.nn.softplus(-fake.astype(jnp.float32)))


def least_squares_discriminator(
    real: Float[jax.Array, "*shape"], fake: Float[jax.Array, "*shape"]
) -> Float[jax.Array, ""]:
    """`(mean (1 - real)^2 + mean fake^2) / 2` (LSGAN, arXiv 1611.04076, with labels 1 and 0; twice that in
    HiFi-GAN).
    """
    real, fake = _float32(real, fake)
    return 0.5 * (jnp.mean(jnp.square(1 - real)) + jnp.mean(jnp.square(fake)))


def least_squares_generator(fake: Float[jax.Array, "*shape"]) -> Float[jax.Array, ""]:
    """`mean (1 - fake)^2`, as in HiFi-GAN (half of it in LSGAN)."""
    return jnp.mean(jnp.square(1 - fake.astype(jnp.float32)))


def mean_over_discriminators(
    loss: Callable[..., jax.Array], *logits: jax.Array | tuple[jax.Array, ...]
) -> Float[jax.Array, ""]:
    """The mean of a loss over discriminators.

    Args:
        loss: of logits, such as `hinge_discriminator`.
        *logits: what it takes; each an array, or a tuple with an array per discriminator.

    Raises:
        ValueError: other numbers of discriminators.
    """
    tuples = [each if isinstance(each, tuple) else (each,) for each in logits]
    losses = [loss(*each) for each in zip(*tuples, strict=True)]
    return losses[0] if len(losses) == 1 else sum(losses[1:], losses[0]) / len(losses)


def lecam_init() -> dict[str, Float[jax.Array, ""]]:
    """LeCam's state: moving averages, from zero, of the mean logits of real and of fake images."""
    return {"real": jnp.zeros((), jnp.float32), "fake": jnp.zeros((), jnp.float32)}


def lecam_update(
    state: dict[str, Float[jax.Array, ""]],
    real: Float[jax.Array, "*shape"],
    fake: Float[jax.Array, "*shape"],
    decay: float = 0.999,
) -> dict[str, Float[jax.Array, ""]]:
    """The averages after one optimizer step: `decay * state + (1 - decay) * mean logits`.

    Call it once per optimizer step, after `lecam_loss` has used the old state, with the logits of the whole
    global batch, or with their mean (a scalar) where they were accumulated over micro-batches.
    """
    means = {"real": jnp.mean(real.astype(jnp.float32)), "fake": jnp.mean(fake.astype(jnp.float32))}
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * jax.lax.stop_gradient(new), state, means)


def lecam_loss(
    state: dict[str, Float[jax.Array, ""]],
    real: Float[jax.Array, "*shape"],
    fake: Float[jax.Array, "*shape"],
) -> Float[jax.Array, ""]:
    """LeCam regulariser of the discriminator: `relu(mean real - ema_fake)^2 + relu(ema_real - mean fake)^2`.

    It keeps the discriminator from pulling real and fake apart faster than their averages move, which helps
    most with little data (Tseng et al. 2021, arXiv 2104.03310; on batch means and with the ReLU as in
    TiTok and WeTok).
    """
    real, fake = _float32(real, fake)
    return jax.nn.relu(jnp.mean(real) - state["fake"]) ** 2 + jax.nn.relu(state["real"] - jnp.mean(fake)) ** 2


def adaptive_weight(reconstruction: Any, adversarial: Any, limit: float = 1e4) -> Float[jax.Array, ""]:
    """`min(||reconstruction|| / (||adversarial|| + 1e-4), limit)`: VQGAN's balance (arXiv 2012.09841).

    Both gradients need only the last layer, not a second pass through the decoder:

        x_hat, pull = jax.vjp(lambda kernel: last_layer(kernel, hidden), kernel)
        reconstruction, = pull(jax.grad(reconstruction_loss)(x_hat))
        adversarial, = pull(jax.grad(generator_loss)(x_hat))

    Args:
        reconstruction: gradient of the reconstruction (and perceptual) loss at the decoder's last layer:
            array or pytree.
        adversarial: gradient of the generator's adversarial loss at the same place.
        limit: upper bound, for when the discriminator says nothing.

    Returns:
        A float32 scalar without gradient. The norms are float32: squares of small bfloat16 gradients would
        lose all digits.
    """
    reconstruction, adversarial = (
        optax.tree.norm(optax.tree.cast(tree, jnp.float32)) for tree in (reconstruction, adversarial)
    )
    return jax.lax.stop_gradient(jnp.minimum(reconstruction / (adversarial + 1e-4), limit))


def start_weight(step: int | Int[jax.Array, ""], start: int, ramp: int = 1) -> Float[jax.Array, ""]:
    """Factor of the adversarial terms: 0 before step `start`, then rising linearly to 1 within `ramp` steps.

    The discriminator starts late because it wins at once against a decoder that cannot draw yet. With `ramp`
    1 the factor is 1 from `start` on.

    Raises:
        ValueError: `ramp` is not positive.
    """
    if ramp < 1:
        raise ValueError(f"start_weight needs ramp >= 1 steps, got {ramp}; 1 switches at once")
    # The difference is taken in integers: float32 cannot count past 2^24 steps.
    return jnp.clip((jnp.asarray(step, jnp.int32) - start + 1).astype(jnp.float32) / ramp, 0.0, 1.0)


def _float32(*logits: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(x.astype(jnp.float32) for x in logits)
