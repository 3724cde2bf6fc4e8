"""PatchGAN: shape, receptive field, independence of examples, errors."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.discriminators import BlurGAN, PatchGAN, blur
from tests.filled import filled, normal


def test_published_size():
    module = PatchGAN(group_norm=False)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    # 4x4 kernels 3-64-128-256-512-1, with all biases
    widths = [3, 64, 128, 256, 512, 1]
    count = sum(16 * a * b + b for a, b in pairwise(widths))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
    assert jax.eval_shape(module.apply, variables, image).shape == (1, 30, 30)
    assert list(variables) == ["params"]  # no batch statistics


def test_examples_do_not_see_each_other():
    module = PatchGAN(features=8, layers=1)
    images = normal(3, 8, 8, 1)
    variables = filled(module, images)
    apply = jax.jit(module.apply)
    logits = apply(variables, images)
    assert logits.shape == (3, 2, 2) and logits.dtype == jnp.float32
    other = apply(variables, images.at[::2].set(0.0))
    np.testing.assert_allclose(other[1], logits[1], rtol=1e-5, atol=1e-6)
    assert (other[0] != logits[0]).any()


def test_logits_see_patches():
    module = PatchGAN(features=4, layers=1, group_norm=False)
    image = jnp.zeros((1, 32, 32, 1))
    variables = filled(module, image)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x)[0, 7, 7]))(image + 0.1)[0, :, :, 0]
    seen = np.flatnonzero(np.abs(gradient).sum(axis=1))
    assert len(seen) == 16  # 4 + (4 - 1) * 2 + (4 - 1) * 2 pixels


def test_bfloat16_keeps_float32_logits():
    module = PatchGAN(features=4, layers=1, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(module.apply, variables, image).dtype == jnp.float32


def test_small_images_are_an_error():
    def logits(size: int, layers: int):
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        return jax.eval_shape(PatchGAN(layers=layers).init_with_output, jax.random.key(0), image)[0]

    assert logits(6, layers=1).shape == (1, 1, 1)
    assert logits(24, layers=3).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="at least 24 x 24 pixels, got 23 x 23; use fewer layers"):
        logits(23, layers=3)


def test_the_blurring_discriminator_has_the_published_size():
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(BlurGAN().init, jax.random.key(0), image)
    # (window, in, out) of all convolutions, with biases; two numbers per normalised channel
    convolutions = [(5, 3, 128), (3, 128, 128), (3, 128, 256), (3, 256, 512), (1, 512, 512), (5, 512, 1)]
    count = sum(k * k * a * b + b for k, a, b in convolutions) + 2 * (128 + 256 + 512)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
    assert jax.eval_shape(BlurGAN().apply, variables, image).shape == (1, 16, 16)


def test_blurring_averages_and_halves():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8, 3)), jnp.float32)
    taps = np.array([1, 3, 3, 1]) / 8
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_allclose(
        jax.jit(blur)(x), np.einsum("bhwcij,i,j->bhwc", windows, taps, taps), atol=1e-5
    )


def test_the_blurring_discriminator_scores_cells():
    module = BlurGAN(features=4, layers=1, cells=2, groups=2)
    images = normal(3, 8, 8, 1)
    variables = filled(module, images)
    apply = jax.jit(module.apply)
    logits = apply(variables, images)
    assert logits.shape == (3, 2, 2) and logits.dtype == jnp.float32
    other = apply(variables, images.at[::2].set(0.0))
    np.testing.assert_allclose(other[1], logits[1], rtol=1e-5, atol=1e-6)
    assert (other[0] != logits[0]).any()
    with pytest.raises(ValueError, match="5x4 responses do not divide into 2x2 cells"):
        module.apply(variables, jnp.zeros((1, 10, 8, 1)))


@pytest.mark.parametrize("kind", [PatchGAN, BlurGAN])
def test_small_images_get_a_discriminator_that_can_read_them(kind):
    assert kind.of_size(64) == kind.of_size(256) == kind()
    for side in (8, 12, 32):
        image = jnp.zeros((2, side, side, 1))
        logits, _ = jax.eval_shape(kind.of_size(side).init_with_output, jax.random.key(0), image)
        assert logits.shape[0] == 2 and 2 <= logits.size < image.size
