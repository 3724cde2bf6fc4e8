import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.attention import Attention
from jaxtok.nn.rope import rope_tables
from tests.filled import filled, normal

HEADS, HEAD_DIM = 2, 4
X = normal(2, 5, 6)
PREFIX = (normal(2, HEADS, 3, HEAD_DIM, seed=1), normal(2, HEADS, 3, HEAD_DIM, seed=2))
MASK = jnp.asarray(np.random.default_rng(3).integers(0, 2, (2, 1, 5, 8)) == 1).at[..., 0].set(True)
ROPE = rope_tables(jnp.arange(5.0)[:, None], (HEAD_DIM,))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def attention():
    module = Attention(HEADS, HEAD_DIM)
    return module, filled(module, X)


def test_it_equals_the_formula(attention):
    module, variables = attention
    p = jax.tree.map(np.asarray, variables["params"])
    x, split = np.asarray(X), lambda y: y.reshape(2, 5, HEADS, HEAD_DIM)

    def normed(name):
        y = split(x @ p[name]["kernel"])
        return p[f"{name}_norm"]["scale"] * y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)

    keys = np.concatenate([PREFIX[0].swapaxes(1, 2), normed("key")], axis=1)
    values = np.concatenate([PREFIX[1].swapaxes(1, 2), split(x @ p["value"]["kernel"])], axis=1)
    scores = np.einsum("bnhd,bshd->bhns", normed("query"), keys) / np.sqrt(HEAD_DIM)
    scores = np.where(np.asarray(MASK), scores, -np.inf)
    out = np.einsum("bhns,bshd->bnhd", softmax(scores), values).reshape(2, 5, -1) @ p["out"]["kernel"]
    y, own = jax.jit(module.apply)(variables, X, PREFIX, None, MASK)
    np.testing.assert_allclose(y, out, atol=1e-5)
    np.testing.assert_allclose(own[0], normed("key"), atol=1e-5)


def test_queries_and_keys_are_rotated_and_values_are_not(attention):
    module, variables = attention
    plain, turned = jax.jit(
        lambda v: [module.apply(v, X, rope, method="keys_values") for rope in (None, ROPE)]
    )(variables)
    assert np.abs(np.asarray(plain[0]) - turned[0])[:, 1:].max() > 0.1
    np.testing.assert_array_equal(plain[1], turned[1])


@pytest.mark.parametrize(
    "kind", [{}, {"qk_norm": "cosine"}, {"qk_norm": False, "scale": 0.3}, {"key_heads": 1}]
)
def test_the_weights_are_those_that_mix_the_values(kind):
    heads = kind.get("key_heads", HEADS)
    module, prefix = Attention(HEADS, HEAD_DIM, **kind), tuple(array[:, :heads] for array in PREFIX)
    variables = filled(module, X)

    @jax.jit
    def both(variables):
        inputs = X, prefix, ROPE, MASK
        weights = module.apply(variables, *inputs, method="weights")
        return weights, module.apply(variables, *inputs)

    weights, (out, (_, own)) = both(variables)
    values = jnp.concatenate([prefix[1].swapaxes(1, 2), own], axis=1)
    values = np.repeat(values, HEADS // heads, axis=2)
    mixed = np.einsum("bhns,bshd->bnhd", weights, values).reshape(2, 5, -1)
    np.testing.assert_allclose(mixed @ variables["params"]["out"]["kernel"], out, atol=1e-5)
    assert (np.asarray(weights)[~np.broadcast_to(MASK, weights.shape)] == 0).all()


def test_another_implementation_can_be_injected():
    seen = {}

    def mean_of_values(query, key, value, mask):
        seen.update(mask=mask, keys=key.shape)
        return jnp.broadcast_to(value.mean(1, keepdims=True), query.shape)

    module = Attention(HEADS, HEAD_DIM, qk_norm=False, use_bias=True, attention_fn=mean_of_values)
    shapes = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), X, PREFIX, None, MASK))
    assert seen == {"mask": MASK, "keys": (2, 8, HEADS, HEAD_DIM)} and shapes[0][0].shape == X.shape
    assert (
        set(shapes[1]["params"]) == {"query", "key", "value", "out"} and "bias" in shapes[1]["params"]["out"]
    )


def test_half_precision_keeps_its_dtype():
    module = Attention(HEADS, HEAD_DIM, dtype=jnp.bfloat16)
    (y, own), _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), X, PREFIX, ROPE, MASK))
    assert y.dtype == own[0].dtype == own[1].dtype == jnp.bfloat16


def test_groups_of_queries_need_whole_keys():
    with pytest.raises(ValueError, match="key_heads=2 does not divide heads=3"):
        jax.eval_shape(Attention(3, HEAD_DIM, key_heads=2).init, jax.random.key(0), X)


def test_a_scale_replaces_that_of_the_width():
    usual = Attention(HEADS, HEAD_DIM, qk_norm=False)
    variables = filled(usual, X)
    scaled = dataclasses.replace(usual, scale=3 / HEAD_DIM**0.5)
    longer = jax.tree.map(lambda leaf: leaf, variables)
    longer["params"]["query"]["kernel"] = 3 * longer["params"]["query"]["kernel"]
    np.testing.assert_allclose(scaled.apply(variables, X)[0], usual.apply(longer, X)[0], rtol=1e-5, atol=1e-5)


def test_norms_of_queries_and_keys_may_have_no_parameters():
    module = Attention(HEADS, HEAD_DIM, qk_norm="plain")
    variables = filled(module, X)
    assert set(variables["params"]) == {"query", "key", "value", "out"}
    keys, _ = module.apply(variables, X, method="keys_values")
    np.testing.assert_allclose(jnp.mean(keys, axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.var(keys, axis=-1), 1, atol=1e-3)
