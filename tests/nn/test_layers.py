"""The small layers: dense, norms, feed-forward, modulation, constraints."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxtok.nn.constrain import constrain
from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import AdaptiveLayerNorm, Modulation, TimeEmbedding
from jaxtok.nn.normalization import LayerNorm, RMSNorm, make_norm
from tests.filled import filled, normal

X = normal(2, 3, 8)


def run(module, *args, variables=None, **kwargs):
    variables = filled(module, *args, **kwargs) if variables is None else variables
    return jax.tree.map(np.asarray, jax.jit(module.apply)(variables, *args, **kwargs)), variables.get(
        "params", {}
    )


def test_dense_is_an_affine_map_of_the_last_axis():
    y, parameters = run(Dense(5), X)
    np.testing.assert_allclose(y, np.asarray(X) @ parameters["kernel"] + parameters["bias"], atol=1e-5)


def test_dense_keeps_parameters_in_float32_and_takes_a_single_vector():
    layer = Dense(5, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x), X[0, 0])
    assert y.shape == (5,) and y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_the_product_is_two_dimensional():
    layer = Dense(5)
    products = [e for e in jax.make_jaxpr(layer.apply)(filled(layer, X), X).eqns if "dot" in e.primitive.name]
    assert products and all(var.aval.ndim == 2 for eqn in products for var in eqn.invars)


def test_norms_match_their_formulas():
    x = np.asarray(X)
    y, parameters = run(RMSNorm(), X)
    np.testing.assert_allclose(
        y, parameters["scale"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6), atol=1e-5
    )
    y, parameters = run(LayerNorm(), X)
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y, parameters["scale"] * standard + parameters["bias"], atol=1e-5)


def test_statistics_are_float32():
    # In bfloat16 256^2 + 1 is 256^2: the sum of squares would lose the small channels.
    x = jnp.asarray(np.concatenate([[[256.0]], np.ones((1, 65535))], -1), jnp.bfloat16)
    y, _ = run(RMSNorm(dtype=jnp.bfloat16), x, variables={"params": {"scale": np.ones(65536, np.float32)}})
    assert y.dtype == jnp.bfloat16 and y[0, 0] == jnp.bfloat16(256 / np.sqrt(2))


def test_norms_by_name():
    assert isinstance(make_norm("rms"), RMSNorm) and make_norm("layer", affine=False).affine is False
    for kind, affine in (("batch", True), ("rms", False)):
        with pytest.raises(ValueError, match="choose 'rms', 'layer' or 'plain'"):
            make_norm(kind, affine=affine)


def test_feed_forward_kinds():
    y, parameters = run(FeedForward(4), X)
    up, gate, down = (parameters[name]["kernel"] for name in ("up", "gate", "down"))
    g = np.asarray(X) @ gate
    np.testing.assert_allclose(y, (g / (1 + np.exp(-g)) * (X @ up)) @ down, atol=1e-5)
    gelu = filled(FeedForward(4, "gelu", use_bias=True), X)["params"]
    assert set(gelu) == {"up", "down"} and set(gelu["up"]) == {"kernel", "bias"}
    quick = run(
        FeedForward(4, "gelu_quick"),
        X,
        variables={"params": {"up": {"kernel": up}, "down": {"kernel": down}}},
    )[0]
    h = np.asarray(X) @ up
    np.testing.assert_allclose(quick, (h / (1 + np.exp(-1.702 * h))) @ down, atol=1e-5)
    with pytest.raises(ValueError, match="choose 'swiglu', 'gelu', 'gelu_exact', 'silu' or 'gelu_quick'"):
        filled(FeedForward(4, "relu"), X)


def test_modulation_starts_at_zero_only_if_asked_for():
    c = X[:, 0]
    init = jax.jit(lambda module: module.init_with_output(jax.random.key(0), c)[0], static_argnums=0)
    zero, xavier = init(Modulation(2, 8, kernel_init=nn.initializers.zeros)), init(Modulation(2, 8))
    assert len(zero) == 2 and zero[0].shape == (2, 1, 8)
    assert not any(np.any(v) for v in zero) and all(np.any(v) for v in xavier)


def test_adaptive_norm_has_scale_before_shift():
    bias = np.concatenate([np.full(8, 2.0), np.full(8, 5.0)]).astype(np.float32)
    linear = {"kernel": np.zeros((8, 16), np.float32), "bias": bias}
    y, _ = run(AdaptiveLayerNorm(), X, X[:, 0], variables={"params": {"modulation": {"linear": linear}}})
    np.testing.assert_allclose(y, 3 * run(LayerNorm(affine=False), X, variables={})[0] + 5, atol=1e-5)


@pytest.mark.parametrize("frequencies", [0, 4])
def test_times_are_told_apart(frequencies):
    y, _ = run(TimeEmbedding(8, frequencies), jnp.asarray([0.0, 0.3, 1.0], jnp.float32))
    assert y.shape == (3, 8) and np.abs(np.diff(y, axis=0)).max(-1).min() > 0.01


def test_constraints_shard_over_the_mesh_and_vanish_without_one():
    x = jnp.zeros((8, 3, 4))
    pin = lambda x: constrain(x, ("data", "fsdp"), None, "tensor")
    assert pin(x) is x
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        assert jax.jit(pin)(x).sharding.spec == jax.sharding.PartitionSpec("data", None, "tensor")
        # Sizes that do not divide are left alone instead of failing.
        assert jax.jit(pin)(jnp.zeros((6, 3, 3))).shape == (6, 3, 3)


def test_modulation_vectors_stay_with_their_examples():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = lambda *axes: jax.sharding.NamedSharding(mesh, jax.P(*axes))
    layer = Modulation(6, 32)
    c, x = jnp.ones((64, 32)), jnp.ones((64, 8, 32))
    variables = layer.init(jax.random.key(0), c)

    def loss(variables, c, x):
        shift, scale, *_ = layer.apply(variables, c)
        return jnp.sum(jnp.tanh(x * scale + shift))

    shardings = (
        {"params": {"linear": {"kernel": split(None, "fsdp"), "bias": split()}}},
        *2 * [split(("data", "fsdp"))],
    )
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss), in_shardings=shardings).lower(variables, c, x).compile().as_text()
    assert "all-reduce" in text and "all-to-all" not in text
    assert "[64," not in "".join(line for line in text.splitlines() if " all-gather(" in line)
