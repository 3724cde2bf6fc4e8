import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.inspect import attention_maps, plot_token_maps, query_attention
from jaxtok.nn.attention import Attention
from jaxtok.nn.transformer import Block, Stack
from tests.filled import filled, normal
from tests.inspect.rendering import render, texts


@pytest.fixture(scope="module")
def encoder():
    """A compiled stack of two scanned layers that are rematerialised, and an input."""
    stack = Stack(Block(2, 4, 8, norm="plain", parent=None), 2, remat="full")
    x = normal(2, 7, 8)
    variables = filled(stack, x)
    return jax.jit(lambda x: stack.apply(variables, x)[0]), x


def test_all_layers_are_recorded_in_order_and_nothing_changes(encoder):
    encode, x = encoder
    before, results = encode(x), []
    maps = attention_maps(lambda: results.append(encode(x)))
    assert [(layer.name, layer.weights.shape) for layer in maps] == [("block/attention", (2, 2, 7, 7))] * 2
    assert not np.allclose(maps[0].weights, maps[1].weights)
    for layer in maps:
        np.testing.assert_allclose(layer.weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(results[0], before, atol=1e-5)


def test_patches_of_the_queries():
    weights = np.random.default_rng(0).dirichlet(np.ones(19), (2, 4, 19)).astype(np.float32)
    looked = query_attention(weights, (4, 4), queries=slice(0, 3), cells=slice(3, None))
    assert looked.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(looked[1, 2, 1, 3], weights[1, :, 2, 3 + 7].mean(), rtol=1e-6)
    figure = plot_token_maps(
        looked[0], np.zeros((8, 8, 1), np.uint8), overlay=True, unit="share of attention"
    )
    render(figure)
    assert {"image", "tokens 0 to 2", "share of\nattention"} <= set(texts(figure))
    with pytest.raises(ValueError, match="has 9"):
        query_attention(weights, (3, 3), queries=slice(0, 3), cells=slice(3, None))


def test_queries_that_match_one_key_look_at_it():
    module = Attention(1, 4, qk_norm=False)
    x = 5 * jnp.eye(4)[None]
    same = {name: {"kernel": jnp.eye(4)} for name in ("query", "key", "value", "out")}
    (only,) = attention_maps(lambda: module.apply({"params": same}, x))
    assert only.name == "" and (np.diagonal(only.weights[0, 0]) > 0.99).all()


def test_nothing_attends():
    with pytest.raises(ValueError, match="ran no attention layer"):
        attention_maps(lambda: jnp.zeros(3))
