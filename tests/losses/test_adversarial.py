"""Adversarial losses, their stabilisers and schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses import adversarial

REAL, FAKE = jnp.asarray([2.0, 0.5, -1.0]), jnp.asarray([-2.0, 0.0, 3.0])


def test_hinge():
    np.testing.assert_allclose(
        adversarial.hinge_discriminator(REAL, FAKE), 0.5 * (2.5 / 3 + 5 / 3), rtol=1e-6
    )
    np.testing.assert_allclose(adversarial.hinge_generator(FAKE), -1 / 3, rtol=1e-6)


def test_nonsaturating_is_binary_cross_entropy():
    def sigmoid(x):
        return 1 / (1 + np.exp(-np.asarray(x, np.float64)))

    discriminator = -0.5 * (np.log(sigmoid(REAL)).mean() + np.log(1 - sigmoid(FAKE)).mean())
    np.testing.assert_allclose(adversarial.nonsaturating_discriminator(REAL, FAKE), discriminator, rtol=1e-6)
    np.testing.assert_allclose(
        adversarial.nonsaturating_generator(FAKE), -np.log(sigmoid(FAKE)).mean(), rtol=1e-6
    )
    sure = jnp.asarray([-1e4])
    assert jax.grad(adversarial.nonsaturating_generator)(sure) == -1


def test_generator_losses_fall_when_logits_rise():
    for loss in (adversarial.hinge_generator, adversarial.nonsaturating_generator):
        assert (np.asarray(jax.jit(jax.grad(loss))(FAKE)) < 0).all()


def test_lecam_follows_the_moving_averages():
    state = adversarial.lecam_init()
    state = adversarial.lecam_update(state, REAL, FAKE, decay=0.5)
    np.testing.assert_allclose([state["real"], state["fake"]], [0.25, 1 / 6], rtol=1e-6)
    state = adversarial.lecam_update(state, REAL.mean(), FAKE.mean(), decay=0.5)  # means serve as well
    np.testing.assert_allclose([state["real"], state["fake"]], [0.375, 0.25], rtol=1e-6)
    # relu(0.5 - 0.25)^2 + relu(0.375 - 1/3)^2
    np.testing.assert_allclose(
        adversarial.lecam_loss(state, REAL, FAKE), 0.0625 + (0.375 - 1 / 3) ** 2, rtol=1e-5
    )


def test_lecam_pulls_real_and_fake_together():
    state = {"real": jnp.float32(1), "fake": jnp.float32(-1)}

    @jax.jit
    def gradients(state, real, fake):
        of_average = jax.grad(lambda x: adversarial.lecam_update(state, x, fake)["real"])(real)
        return jax.grad(adversarial.lecam_loss, argnums=(1, 2))(state, real, fake - 2), of_average

    (real, fake), gradient = jax.device_get(gradients(state, REAL, FAKE))
    assert (real > 0).all() and (fake < 0).all()
    assert (gradient == 0).all()


def test_adaptive_weight_is_the_ratio_of_norms():
    tiny = jnp.full(1000, 1e-30, jnp.bfloat16)

    @jax.jit
    def weights(a, b, ones):
        ratio = adversarial.adaptive_weight({"a": a}, {"a": b})
        limited = adversarial.adaptive_weight(ones, 0 * ones, limit=10.0)
        gradient = jax.grad(lambda x: adversarial.adaptive_weight(x, x + 1))(ones)
        return ratio, limited, adversarial.adaptive_weight(tiny, tiny), gradient

    a, b = jnp.asarray([3.0, 4.0]), jnp.asarray([0.0, 0.5])
    ratio, limited, of_tiny, gradient = jax.device_get(weights(a, b, np.ones(3, np.float32)))
    np.testing.assert_allclose(ratio, 5 / 0.5001, rtol=1e-6)
    assert limited == 10
    assert np.isfinite(of_tiny)
    assert (gradient == 0).all()


def test_adaptive_weight_from_the_last_layer_equals_the_whole_backward_pass():
    first, kernel, x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)

    def reconstruction(x_hat):
        return jnp.mean((x_hat - x) ** 2)

    def generator(x_hat):
        return -jnp.mean(jnp.tanh(x_hat))

    def whole(loss):
        return jax.grad(lambda kernel: loss(jnp.tanh(x @ first) @ kernel))(kernel)

    @jax.jit
    def weights():
        x_hat, pull = jax.vjp(lambda kernel: jnp.tanh(x @ first) @ kernel, kernel)
        gradients = [pull(jax.grad(loss)(x_hat))[0] for loss in (reconstruction, generator)]
        one = adversarial.adaptive_weight(*gradients)
        return one, adversarial.adaptive_weight(whole(reconstruction), whole(generator))

    np.testing.assert_allclose(*weights(), rtol=1e-5)


def test_start_weight():
    weights = [float(adversarial.start_weight(step, 3)) for step in range(6)]
    assert weights == [0, 0, 0, 1, 1, 1]
    ramped = [float(adversarial.start_weight(step, 2, ramp=4)) for step in range(8)]
    assert ramped == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    # One step before a start that float32 cannot tell from its neighbours.
    assert jax.jit(lambda s: adversarial.start_weight(s, 2**24 + 1))(jnp.int32(2**24)) == 0
    with pytest.raises(ValueError, match="ramp >= 1"):
        adversarial.start_weight(0, 0, ramp=0)
