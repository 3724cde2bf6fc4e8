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
    logits = jax.jit(lambda z: QUANTIZER.apply(VARIABLES, z, method="logits"))(Z)
    gumbel = normal(3, 4, 5, seed=1)
    cotangent, codebook = normal(3, 4, 6, seed=2), VARIABLES["params"]["codebook"]

    def ours(codebook, logits):
        variables = {"params": VARIABLES["params"] | {"codebook": codebook}}
        out = QUANTIZER.apply(variables, logits, gumbel, 0.7, method="quantize")
        return jnp.vdot(out.values, cotangent)

    def formula(codebook, logits):
        soft = jax.nn.softmax((logits + gumbel) / 0.7)
        hard = jax.nn.one_hot(jnp.argmax(soft, -1), 5)
        return jnp.vdot((hard + soft - jax.lax.stop_gradient(soft)) @ codebook, cotangent)

    got, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(codebook, logits) for f in (ours, formula))
    jax.tree.map(close, got, expected)


def test_samples_follow_the_distribution():
    logits = np.broadcast_to(np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32)), (20000, 4))
    run = jax.jit(lambda x: relaxed_sample(x, jax.random.gumbel(jax.random.key(0), (20000, 4)), 1.0))
    codes, soft = jax.device_get(run(logits))
    np.testing.assert_allclose(np.bincount(codes) / 20000, np.exp(logits[0]), atol=0.015)
    np.testing.assert_array_equal(np.argmax(soft, -1), codes)


def test_divergence():
    p = np.array([0.7, 0.2, 0.1])

    @jax.jit
    def run(z):
        logits = [jnp.zeros((2, 7)), jnp.array([0.0, 100.0, 0.0, 0.0]), jnp.log(jnp.asarray(p))]
        logits.append(QUANTIZER.apply(VARIABLES, z, method="logits"))
        return [divergence_from_uniform(x) for x in logits], QUANTIZER.apply(VARIABLES, z)

    (even, sure, drawn, of_features), out = jax.device_get(run(Z))
    np.testing.assert_allclose(even, 0, atol=1e-6)
    close(sure, np.log(4))
    close(drawn, np.sum(p * np.log(p * 3)))
    close(out.losses["divergence"], 0.3 * np.mean(of_features))


def test_soft_values_become_hard_as_the_temperature_falls():
    soft = GumbelQuantizer(codes=5, width=6, hard=False)

    @jax.jit
    def run(t):
        out = soft.apply(VARIABLES, Z, train=True, key=jax.random.key(1), temperature=t)
        return out.values, soft.apply(VARIABLES, out.codes, method="decode")

    (cold, of_cold), (warm, of_warm) = run(1e-4), run(2.0)
    close(cold, of_cold, atol=1e-4)
    assert np.abs(warm - of_warm).max() > 0.05


def test_masked_tokens_have_no_effect():
    mask = jnp.arange(4) < jnp.array([4, 2, 1])[:, None]
    run = jax.jit(lambda z: QUANTIZER.apply(VARIABLES, z, train=True, key=jax.random.key(1), mask=mask))
    jax.tree.map(np.testing.assert_array_equal, run(Z), run(jnp.where(mask[..., None], Z, 7.0)))


def test_noise_belongs_to_examples():
    keys = jax.random.split(jax.random.key(3), 3)
    run = jax.jit(lambda z, keys: QUANTIZER.apply(VARIABLES, z, train=True, key=keys).codes)
    parts = [run(Z[i : i + 1], keys[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(run(Z, keys), np.concatenate(parts))
