import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantize.gumbel import GumbelQuantizer, divergence_from_uniform, relaxed_sample
from tests.filled import filled, normal
from tests.quantize.golden import close

Z = normal(3, 4, 6)
QUANTIZER = GumbelQuantizer(codes=5, width=6, divergence_weight=0.3)
VARIABLES = filled(QUANTIZER, Z)


def test_hard_samples_carry_the_gradient_of_the_relaxation():
    logits, gumbel = QUANTIZER.apply(VARIABLES, Z, method="logits"), normal(3, 4, 5, seed=1)
    cotangent, codebook = normal(3, 4, 6, seed=2), VARIABLES["params"]["codebook"]

    def ours(codebook, logits):
        variables = {"params": VARIABLES["params"] | {"codebook": codebook}}
        out = QUANTIZER.apply(variables, logits, gumbel, 0.7, method="quantize")
        return jnp.vdot(out.values, cotangent)

    def formula(codebook, logits):
        soft = jax.nn.softmax((logits + gumbel) / 0.7)
        hard = jax.nn.one_hot(jnp.argmax(soft, -1), 5)
        return jnp.vdot((hard + soft - jax.lax.stop_gradient(soft)) @ codebook, cotangent)

    got, expected = (jax.value_and_grad(f, (0, 1))(codebook, logits) for f in (ours, formula))
    jax.tree.map(close, got, expected)


def test_samples_follow_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    logits = jnp.broadcast_to(logits, (20000, 4))
    codes, soft = relaxed_sample(logits, jax.random.gumbel(jax.random.key(0), (20000, 4)), 1.0)
    np.testing.assert_allclose(np.bincount(codes) / 20000, np.exp(logits[0]), atol=0.015)
    np.testing.assert_array_equal(np.argmax(soft, -1), codes)


def test_divergence():
    np.testing.assert_allclose(divergence_from_uniform(jnp.zeros((2, 7))), 0, atol=1e-6)
    close(divergence_from_uniform(jnp.array([0.0, 100.0, 0.0, 0.0])), np.log(4))
    p = np.array([0.7, 0.2, 0.1])
    close(divergence_from_uniform(jnp.log(p)), np.sum(p * np.log(p * 3)))
    out = QUANTIZER.apply(VARIABLES, Z)
    logits = QUANTIZER.apply(VARIABLES, Z, method="logits")
    close(out.losses["divergence"], 0.3 * np.mean(divergence_from_uniform(logits)))


def test_soft_values_become_hard_as_the_temperature_falls():
    soft = GumbelQuantizer(codes=5, width=6, hard=False)
    run = lambda t: soft.apply(VARIABLES, Z, train=True, key=jax.random.key(1), temperature=t)
    cold, warm = run(1e-4), run(2.0)
    close(cold.values, soft.apply(VARIABLES, cold.codes, method="decode"), atol=1e-4)
    assert np.abs(warm.values - soft.apply(VARIABLES, warm.codes, method="decode")).max() > 0.05


def test_masked_tokens_have_no_effect():
    mask = jnp.arange(4) < jnp.array([4, 2, 1])[:, None]
    run = jax.jit(lambda z: QUANTIZER.apply(VARIABLES, z, train=True, key=jax.random.key(1), mask=mask))
    jax.tree.map(np.testing.assert_array_equal, run(Z), run(jnp.where(mask[..., None], Z, 7.0)))


def test_noise_belongs_to_examples():
    keys = jax.random.split(jax.random.key(3), 3)
    run = lambda z, keys: QUANTIZER.apply(VARIABLES, z, train=True, key=keys).codes
    parts = [run(Z[i : i + 1], keys[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(run(Z, keys), np.concatenate(parts))
