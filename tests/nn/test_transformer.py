import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.attention import Attention
from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import Modulation
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.transformer import Block, Stack
from tests.filled import filled, normal

LAYERS, BATCH, TOKENS, TEXT = 3, 2, 4, 3
X = normal(BATCH, TOKENS, 8)
PER_LAYER = {"context": normal(LAYERS, BATCH, TEXT, 5, seed=1)}
MASK = (
    jnp.asarray(np.random.default_rng(2).integers(0, 2, (BATCH, 1, TOKENS, TEXT + TOKENS)) == 1)
    .at[..., 0]
    .set(True)
)
SHARED = {"modulation": normal(BATCH, 6, seed=3), "mask": MASK}

# Everything that a block can have, so that one compilation covers it.
BLOCK = Block(2, 4, 16, feed_forward="gelu", feed_forward_bias=True, modulated=True, positions=6, parent=None)


@pytest.fixture(scope="module")
def variables():
    return filled(Stack(BLOCK, LAYERS), X, PER_LAYER, SHARED)


def value_and_gradients(stack, variables):
    def loss(variables, x, per_layer, modulation):
        y, _ = stack.apply(variables, x, per_layer, {**SHARED, "modulation": modulation})
        return jnp.sum(jnp.square(y)), y

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    return gradient(variables, X, PER_LAYER, SHARED["modulation"])


@pytest.fixture(scope="module")
def reference(variables):
    return value_and_gradients(Stack(BLOCK, LAYERS), variables)


@pytest.fixture(scope="module")
def collected(variables):
    stack = Stack(BLOCK, LAYERS)
    kinds = ("hidden", "keys_values", "context")
    return jax.jit(lambda v: {kind: stack.apply(v, X, PER_LAYER, SHARED, kind) for kind in kinds})(variables)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def by_formula(p, x, context):
    """The block of the official priors, written out of its parts."""
    norm = lambda x: LayerNorm(affine=False).apply({}, x)
    vectors = Modulation(6, 8).apply({"params": p["modulation"]}, SHARED["modulation"])
    shift1, scale1, gate1, shift2, scale2, gate2 = vectors
    attention, params = Attention(2, 4), {"params": p["attention"]}
    text = attention.apply(params, Dense(8).apply({"params": p["context"]}, context), method="keys_values")
    text = jax.tree.map(lambda x: x.swapaxes(1, 2), text)
    h = norm(x) * (1 + scale1) + shift1 + p["positions"][:TOKENS]
    x = x + gate1 * attention.apply(params, h, text, None, MASK)[0]
    h = norm(x) * (1 + scale2) + shift2
    return x + gate2 * FeedForward(16, "gelu", use_bias=True).apply({"params": p["feed_forward"]}, h)


def test_a_scan_equals_the_formula_layer_after_layer(variables, reference, collected):
    @jax.jit
    def loop(params):
        x, hidden = X, []
        for layer in range(LAYERS):
            x = by_formula(jax.tree.map(lambda p, i=layer: p[i], params), x, PER_LAYER["context"][layer])
            hidden.append(x)
        return x, jnp.stack(hidden)

    x, hidden = loop(variables["params"]["block"])
    close(reference[0][1], x)
    close(collected["hidden"], (x, hidden))


@pytest.mark.parametrize("remat, unroll", [("full", 1), ("dots", 2)])
def test_remat_and_unroll_change_neither_outputs_nor_gradients(variables, reference, remat, unroll):
    close(value_and_gradients(Stack(BLOCK, LAYERS, remat, unroll), variables), reference)


def test_every_parameter_and_input_has_a_gradient(reference):
    for gradient in jax.tree.leaves(reference[1]):
        assert np.isfinite(gradient).all() and np.any(gradient)


def test_ready_made_keys_of_the_context_give_the_same(variables, reference, collected):
    untouched, prefix = collected["context"]
    assert prefix[0].shape == (LAYERS, BATCH, 2, TEXT, 4)
    np.testing.assert_array_equal(untouched, X)
    again, _ = jax.jit(Stack(BLOCK, LAYERS).apply)(variables, X, {"prefix": prefix}, SHARED)
    close(again, reference[0][1])


def test_keys_and_values_of_the_sequence_are_collected(collected):
    x, (keys, values) = collected["keys_values"]
    assert x.shape == X.shape and keys.shape == values.shape == (LAYERS, BATCH, TOKENS, 2, 4)
    # Per-head norms: every key has a root mean square of about its scale.
    assert 0.5 < np.sqrt(np.mean(np.square(keys))) < 1.5


def test_positions_can_be_chosen_per_row(variables):
    stack, ids = Stack(BLOCK, LAYERS), jnp.asarray([[0, 1, 2, 3], [5, 3, 4, 0]])
    run = jax.jit(lambda ids: stack.apply(variables, X, PER_LAYER, {**SHARED, "position_ids": ids})[0])
    usual = run(jnp.broadcast_to(jnp.arange(4), (2, 4)))
    moved = run(ids)
    close(usual[0], moved[0])
    assert np.abs(np.asarray(usual - moved)[1]).max() > 1e-3


def test_the_plain_block_is_the_one_of_the_sheet():
    """x + Attn(RMS(x)), then x + SwiGLU(RMS(x)), without a single bias."""
    block = Block(2, 4, 32)
    variables = filled(block, X, {}, {})
    flat = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert not any("bias" in path for path in flat)
    assert {path.split("/")[0] for path in flat} == {
        "attention",
        "attention_norm",
        "feed_forward",
        "feed_forward_norm",
    }

    @jax.jit
    def silenced(variables):
        params = variables["params"]
        attention = {**params["attention"], "out": jax.tree.map(jnp.zeros_like, params["attention"]["out"])}
        down = jax.tree.map(jnp.zeros_like, params["feed_forward"]["down"])
        params = {**params, "attention": attention, "feed_forward": {**params["feed_forward"], "down": down}}
        return block.apply({"params": params}, X, {}, {})[0]

    np.testing.assert_array_equal(silenced(variables), X)


def test_half_precision_flows_through_every_part():
    stack = Stack(dataclasses.replace(BLOCK, dtype=jnp.bfloat16), LAYERS)
    half = jax.eval_shape(
        lambda: stack.init_with_output(
            jax.random.key(0), X.astype(jnp.bfloat16), PER_LAYER, SHARED, "keys_values"
        )
    )
    (x, (keys, values)), variables = half
    assert x.dtype == keys.dtype == values.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="the stack 3"):
        jax.eval_shape(
            lambda: Stack(BLOCK, LAYERS).init(jax.random.key(0), X, {"context": PER_LAYER["context"][:2]})
        )


def test_norms_may_come_after_each_half():
    block = Block(
        2, 4, 16, "layer", 1e-12, "gelu_exact", False, True, True, norm_after=True, out_bias=True, parent=None
    )
    x = X[..., :8]
    variables = filled(block, x, {}, {})
    params = variables["params"]
    y, _ = block.apply(variables, x, {}, {})
    norm = lambda name, x: LayerNorm(1e-12).apply({"params": params[name]}, x)
    attended, _ = Attention(2, 4, False, True).apply({"params": params["attention"]}, x)
    x = norm("attention_norm", x + attended)
    fed = FeedForward(16, "gelu_exact", True).apply({"params": params["feed_forward"]}, x)
    np.testing.assert_allclose(y, norm("feed_forward_norm", x + fed), atol=1e-5)
    with pytest.raises(ValueError, match="norm_after=True with modulated=True and positions=6"):
        dataclasses.replace(BLOCK, norm_after=True).apply({}, x, {}, {})


def test_the_output_projection_may_have_the_only_bias():
    names = lambda **kwargs: jax.eval_shape(
        lambda: Attention(2, 4, False, **kwargs).init(jax.random.key(0), X)
    )["params"]
    assert {name for name, leaf in names(out_bias=True).items() if "bias" in leaf} == {"out"}
    assert {name for name, leaf in names(use_bias=True, out_bias=False).items() if "bias" not in leaf} == {
        "out"
    }
