"""Entropies of binary codes against all probabilities written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.quantize import entropy
from jaxtok.quantize.entropy import (
    batch_entropy,
    bit_entropy,
    floored_sample_entropy,
    joint_probabilities,
    mean_probabilities,
    sample_entropy,
)
from tests.quantize.golden import cases


def written_out(logits):
    """Probabilities [N, G, 2^d] in float64, by a softmax over all codes."""
    bits = logits.shape[-1]
    codes = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    scores = np.asarray(logits, np.float64) @ codes.T
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def plain(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def drawn(tokens, groups, bits, scale=2.0, seed=0):
    return jnp.asarray(
        scale * np.random.default_rng(seed).standard_normal((tokens, groups, bits)), jnp.float32
    )


@jax.jit
def everything(logits, weights):
    return {
        "joint": joint_probabilities(logits),
        "mean": mean_probabilities(logits, weights),
        "sample": sample_entropy(logits, weights),
        "floored": floored_sample_entropy(logits, weights),
        "exact": batch_entropy(logits, "exact", weights),
        "exact, added": batch_entropy(logits, "exact", weights, "add"),
        "pooled": batch_entropy(logits, "pooled", weights),
        "pooled, added": batch_entropy(logits, "pooled", weights, "add"),
        "factorised": batch_entropy(logits, "factorised", weights),
    }


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(entropy, "_NUMBERS", 64)


sizes = {
    "tokens": st.sampled_from([1, 33]),
    "groups": st.sampled_from([1, 3]),
    "bits": st.sampled_from([1, 4, 7]),
    "scale": st.sampled_from([0.1, 2.0, 20.0]),
    "seed": st.integers(0, 99),
}


@settings(max_examples=10)
@given(**sizes)
def test_factorised_is_exact(tokens, groups, bits, scale, seed):
    logits = drawn(tokens, groups, bits, scale, seed)
    weights = np.random.default_rng(seed).integers(0, 2, tokens).astype(np.float32)
    weights[0] = 1
    share, p = weights / weights.sum(), written_out(logits)
    mean = np.einsum("n,ngk->gk", share, p)
    floored = -(p * np.log(np.maximum(p, 1e-5))).sum(-1)
    by_bit = np.einsum("n,ngd->gd", share, 1 / (1 + np.exp(-np.asarray(logits, np.float64))))
    by_bit = (plain(np.stack([by_bit, 1 - by_bit], -1))).sum(-1).mean()
    clamped = lambda p: -(p * np.log(np.maximum(p, 1e-5))).sum(-1).mean()
    added = lambda p: -(p * np.log(p + 1e-5)).sum(-1).mean()
    expected = {
        "joint": p,
        "mean": mean,
        "sample": (share[:, None] * plain(p)).sum(0).mean(),
        "floored": (share[:, None] * floored).sum(0).mean(),
        "exact": clamped(mean),
        "exact, added": added(mean),
        "pooled": clamped(mean.mean(0, keepdims=True)),
        "pooled, added": added(mean.mean(0, keepdims=True)),
        "factorised": by_bit,
    }
    for name, ours in everything(logits, jnp.asarray(weights)).items():
        np.testing.assert_allclose(ours, expected[name], atol=1e-5 * bits, rtol=1e-5, err_msg=name)
    assert by_bit >= plain(mean).mean() - 1e-9


@pytest.mark.parametrize("function", [mean_probabilities, floored_sample_entropy])
def test_blocks_of_tokens_change_nothing(function, small_blocks):
    logits, weights = drawn(45, 2, 5), jnp.asarray(np.arange(45) % 3 > 0, jnp.float32)
    run = lambda logits: jnp.sum(jnp.sin(9 * function(logits, weights)))
    blocked = jax.jit(jax.value_and_grad(run))(logits)
    entropy._NUMBERS = 2**20
    whole = jax.jit(lambda logits: jax.value_and_grad(run)(logits))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), blocked, whole)


def test_gradient_of_the_entropy_of_a_bit():
    logits = jnp.asarray([-200.0, -3.0, -0.5, 0.0, 1.0, 7.0, 500.0])
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    gradient = jax.jit(jax.vmap(jax.grad(bit_entropy)))(logits)
    np.testing.assert_allclose(gradient, -np.asarray(logits) * p * (1 - p), atol=1e-6)


def test_gradient_of_the_entropy_of_the_batch_by_hand():
    """d H(m) / d l_ij = -sum_k (log m_k + 1) dm_k / dl_ij,   dm_k / dl_ij = p_ik (b_kj - p_ij) / N."""
    logits = drawn(7, 1, 4)
    p = written_out(logits)[:, 0]
    codes = (np.arange(16)[:, None] >> np.arange(4)) & 1
    on = 1 / (1 + np.exp(-np.asarray(logits[:, 0], np.float64)))
    slope = -(np.log(p.mean(0)) + 1)
    expected = np.einsum("k,ik,ikj->ij", slope, p, codes[None] - on[:, None]) / len(p)
    gradient = jax.jit(jax.grad(lambda x: batch_entropy(x, "exact")))(logits)
    np.testing.assert_allclose(gradient[:, 0], expected, atol=1e-6)


def test_gradients_are_finite_where_everything_is_sure():
    logits = jnp.asarray([[[400.0, -400.0, 0.0]], [[400.0, -400.0, 1e4]]])
    terms = (sample_entropy, floored_sample_entropy, batch_entropy, lambda x: batch_entropy(x, "factorised"))
    for gradient in jax.jit(lambda x: [jax.grad(term)(x) for term in terms])(logits):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", cases(["exact", "factorised", "pooled"], ["exact"]))
def test_tokens_split_over_devices_change_nothing(kind):
    logits, weights = drawn(44, 2, 6), jnp.asarray(np.arange(44) % 5 > 0, jnp.float32)

    def both(logits, weights):
        def loss(x):
            return (
                sample_entropy(x, weights)
                - batch_entropy(x, kind, weights)
                + floored_sample_entropy(x, weights)
            )

        return jax.value_and_grad(loss)(logits)

    alone = jax.jit(both)(logits, weights)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        together = jax.jit(both)(jax.device_put(logits, rows), jax.device_put(weights, rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone, together)


@pytest.mark.slow  # `test_lfq` does it for the whole module
def test_eighteen_bits_need_little_memory():
    """Nothing of size [tokens, 2^18], which would be 17 GB."""
    shape = jax.ShapeDtypeStruct((16384, 1, 18), jnp.float32)
    step = jax.value_and_grad(lambda x: sample_entropy(x) - batch_entropy(x))
    memory = jax.jit(step).lower(shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 2**20


def test_an_unknown_kind_is_refused():
    with pytest.raises((ValueError, TypeError), match="all"):  # a TypeError where annotations are checked
        batch_entropy(drawn(2, 1, 2), "all")  # pyright: ignore
