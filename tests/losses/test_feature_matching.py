"""Feature matching, and losses over several discriminators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses import adversarial
from jaxtok.losses.adversarial import mean_over_discriminators
from jaxtok.losses.discriminators import BlurGAN, Discrimination, FeatureDiscriminator, PatchGAN, Several
from jaxtok.losses.feature_matching import feature_matching_loss
from tests.filled import filled, normal


def made(*seeds):
    return tuple(
        Discrimination(normal(3, seed=seed), (normal(3, 4, seed=seed), 5 * normal(3, 2, 2, seed=seed)))
        for seed in seeds
    )


REAL, FAKE = made(0, 1), made(2, 3)


@pytest.mark.parametrize("relative", [False, True])
def test_as_written_out(relative):
    loss, gradients = jax.jit(
        jax.value_and_grad(lambda real, fake: feature_matching_loss(real, fake, relative), argnums=(0, 1))
    )(REAL, FAKE)
    expected = np.mean([
        np.abs(r - f).mean() / (np.abs(r).mean() if relative else 1)
        for real, fake in zip(REAL, FAKE)
        for r, f in zip(real.features, fake.features)
    ])  # fmt: skip
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[0]))
    assert all(np.all(feature != 0) for one in gradients[1] for feature in one.features)
    np.testing.assert_allclose(
        feature_matching_loss(REAL[0], FAKE[0], relative), feature_matching_loss(REAL[:1], FAKE[:1], relative)
    )


def test_least_squares():
    real, fake = normal(3, 4), normal(3, 4, seed=1)
    expected = (np.square(1 - real).mean() + np.square(fake).mean()) / 2
    np.testing.assert_allclose(adversarial.least_squares_discriminator(real, fake), expected, rtol=1e-6)
    np.testing.assert_allclose(
        adversarial.least_squares_generator(fake), np.square(1 - fake).mean(), rtol=1e-6
    )


def test_losses_are_means_over_discriminators():
    hinge = adversarial.hinge_discriminator
    real, fake = (tuple(one.logits for one in each) for each in (REAL, FAKE))
    expected = np.mean([hinge(r, f) for r, f in zip(real, fake)])
    np.testing.assert_allclose(mean_over_discriminators(hinge, real, fake), expected, rtol=1e-6)
    assert mean_over_discriminators(hinge, real[0], fake[0]) == hinge(real[0], fake[0])


def test_discriminators_of_images_show_their_layers():
    model = Several((PatchGAN(4, 1), BlurGAN(4, 1, cells=2, groups=2)))
    x = normal(2, 8, 8, 1)
    variables = filled(model, x)
    called, shown, alone = jax.jit(
        lambda v: (
            model.apply(v, x),
            model.apply(v, x, method="discriminate"),
            PatchGAN(4, 1).apply({"params": v["params"]["discriminators_0"]}, x),
        )
    )(variables)
    jax.tree.map(np.testing.assert_array_equal, called, tuple(one.logits for one in shown))
    np.testing.assert_array_equal(called[0], alone)
    assert [feature.shape for feature in shown[0].features] == [(2, 4, 4, 4), (2, 3, 3, 8)]
    assert [feature.shape for feature in shown[1].features] == [(2, 8, 8, 4), (2, 4, 4, 4), (2, 2, 2, 4)]
    assert all(isinstance(each, FeatureDiscriminator) for each in (model, *model.discriminators))


def test_what_cannot_be():
    other = Discrimination(jnp.zeros(3), (jnp.zeros((3, 5)),))
    with pytest.raises(ValueError, match=r"features of shapes \[\(3, 4\), \(3, 2, 2\)\] and \[\(3, 5\)\]"):
        feature_matching_loss(REAL[0], other)
    silent = Discrimination(jnp.zeros(3))
    with pytest.raises(ValueError, match="there must be some"):
        feature_matching_loss(silent, silent)
    with pytest.raises(ValueError):
        feature_matching_loss(REAL, FAKE[:1])
