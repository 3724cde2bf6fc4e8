import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from tests.filled import filled, normal

SHAPE = GridShape(8, (1, 2), blocks=1, middle=1, features=6, groups=4)


def test_cells_are_tokens_row_by_row():
    encoder, images = GridEncoder(dataclasses.replace(SHAPE, middle=0), tokens=8), normal(1, 4, 8, 3)
    params = filled(encoder, images)
    # Without attention a token sees little of the image but through the normalisations, which see all of it:
    # the gradient is largest at its own cell.
    token = 6  # row 1, column 2
    seen = jax.jit(jax.jacobian(lambda x: encoder.apply(params, x)[0, token].sum()))(images)[0]
    blocks = np.abs(seen).sum(axis=-1).reshape(2, 2, 4, 2).sum(axis=(1, 3))
    assert np.unravel_index(blocks.argmax(), blocks.shape) == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"up": "shuffle", "down": "conv_centre", "adaptive": True, "use_bias": False},
        {"attention": (1,), "middle_attention": True, "window": 1, "down": "pool"},
        {"multipliers": (1, 1, 2), "blocks": 2, "middle": 2, "down": "conv_wide", "shortcut": "branch"},
    ],
    ids=["adaptive", "attention", "deep"],
)
def test_every_switch_fits_both_halves(change):
    shape = dataclasses.replace(SHAPE, **change)
    rows, columns = shape.cells((8, 16))
    encoder, decoder = GridEncoder(shape, tokens=rows * columns), GridDecoder(shape)
    latents = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], normal(2, 8, 16, 3))
    assert latents.shape == (2, rows * columns, 6)
    images = jax.eval_shape(
        lambda z: decoder.init_with_output(jax.random.key(0), z, (8, 16))[0][0],
        jnp.zeros(latents.shape, latents.dtype),
    )
    assert images.shape == (2, 8, 16, 3) and images.dtype == jnp.float32


def test_computing_again_changes_no_gradient():
    shape = dataclasses.replace(SHAPE, multipliers=(1, 1), middle=0)
    images, plain = normal(1, 4, 4, 3), GridEncoder(shape, tokens=4)
    again = GridEncoder(dataclasses.replace(shape, remat=True), tokens=4)
    params = filled(plain, images)
    assert jax.tree.structure(params) == jax.tree.structure(filled(again, images))
    gradients = [
        jax.jit(jax.grad(lambda p, m=module: jnp.sum(jnp.square(m.apply(p, images)))))(params)
        for module in (plain, again)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)


def test_the_latents_are_in_bfloat16_and_images_in_float32():
    decoder = GridDecoder(SHAPE, dtype=jnp.bfloat16)
    latents = normal(1, 4, 6)
    params = jax.eval_shape(lambda: decoder.init(jax.random.key(0), latents, (4, 4)))
    images = jax.eval_shape(lambda p: decoder.apply(p, latents, (4, 4))[0], params)
    assert images.dtype == jnp.float32
    encoder = GridEncoder(SHAPE, tokens=4, dtype=jnp.bfloat16)
    assert jax.eval_shape(
        lambda: encoder.init_with_output(jax.random.key(0), normal(1, 4, 4, 3))[0]
    ).dtype == (jnp.bfloat16)


def test_sizes_that_do_not_fit_are_said():
    decoder, latents = GridDecoder(SHAPE), normal(1, 6, 6)
    with pytest.raises(ValueError, match="images of 5x4: both sides must divide by 2"):
        GridEncoder(SHAPE, tokens=4).init(jax.random.key(0), normal(1, 5, 4, 3))
    with pytest.raises(ValueError, match="6 latents do not make 4x4 pixels, which have 2x2 cells"):
        decoder.init(jax.random.key(0), latents, (4, 4))
    for change, message in (
        ({"attention": (2,)}, r"attention=\(2,\) must name levels"),
        ({"window": 5}, "window=5"),
        ({"groups": 16}, r"levels of \[8\] channels do not divide into groups=16"),
        ({"middle": 0, "middle_attention": True}, "needs a middle block"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SHAPE, **change)
