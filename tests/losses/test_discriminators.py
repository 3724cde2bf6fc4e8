"""PatchGAN: shape, receptive field, independence of examples, errors."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.discriminators import PatchGAN


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
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = jax.jit(module.init)(jax.random.key(1), images)
    apply = jax.jit(module.apply)
    logits = apply(variables, images)
    assert logits.shape == (3, 2, 2) and logits.dtype == jnp.float32
    other = apply(variables, images.at[::2].set(0.0))
    np.testing.assert_allclose(other[1], logits[1], rtol=1e-5, atol=1e-6)
    assert (other[0] != logits[0]).any()


def test_logits_see_patches():
    module = PatchGAN(features=4, layers=1, group_norm=False)
    image = jnp.zeros((1, 32, 32, 1))
    variables = jax.jit(module.init)(jax.random.key(0), image)
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
