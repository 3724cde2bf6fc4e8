"""Tokens of an image that are given stay, whatever prior draws the others: editing and in-painting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.keys import example_keys
from jaxtok.systems.image.llamagen import LlamaGen
from jaxtok.systems.image.maskgit import MaskGIT
from jaxtok.systems.image.prior_shape import PriorShape
from tests.filled import draw_like

MASKGIT = dataclasses.replace(MaskGIT.tiny(), prior=PriorShape(1, 2, 8))
LLAMAGEN = dataclasses.replace(LlamaGen.tiny(), prior=dataclasses.replace(LlamaGen.tiny().prior, layers=1))
ROWS, KEYS = 3, example_keys(jax.random.key(0), 3)
LEFT = np.tile(np.arange(16) % 4 < 2, (ROWS, 1))[..., None]  # of a grid of 4 x 4 tokens


@pytest.fixture(scope="module", params=["masked", "autoregressive", "llamagen"])
def draw(request):
    model = LLAMAGEN if request.param == "llamagen" else MASKGIT
    prior = model.prior_named("autoregressive" if request.param == "llamagen" else request.param)
    shapes = jax.eval_shape(
        lambda: prior.init(
            jax.random.key(0),
            Latents(codes=jnp.zeros((1, 16, 1), jnp.int32)),
            model.class_condition(jnp.zeros(1, int)),
        )
    )
    params = draw_like(shapes)

    @jax.jit
    def run(codes, mask, label):
        condition = model.class_condition(jnp.full(ROWS, label))
        return prior.sample(params, condition, KEYS, given=Latents(codes=codes, mask=mask)).codes

    return request.param, lambda codes, mask, label: np.asarray(run(codes, mask, label))


def test_what_is_given_stays_and_the_rest_is_drawn(draw):
    name, run = draw
    nothing, everything = np.zeros_like(LEFT), np.ones_like(LEFT)
    codes = run(np.zeros((ROWS, 16, 1), np.int32), nothing, 3)
    np.testing.assert_array_equal(run(codes, everything, 7), codes)
    other = run(codes, LEFT, 7)  # another class
    np.testing.assert_array_equal(other[LEFT], codes[LEFT])
    assert np.any(other != codes)
    np.testing.assert_array_equal(run(codes, nothing, 3), codes)  # what is not given is not read
    if name != "masked":
        # Token by token with the same noise: from what it drew itself, a prior continues as it did.
        first = np.broadcast_to((np.arange(16) < 6)[:, None], LEFT.shape)
        np.testing.assert_array_equal(run(codes, first, 3), codes)
