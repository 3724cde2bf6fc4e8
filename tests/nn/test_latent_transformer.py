import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Condition
from jaxtok.nn.conditioning import ClassConditioner, LayerwiseConditioner, TextConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.nn.text import ByteEncoder
from tests.filled import filled, normal

TOKENS, BATCH, TEXT = 5, 2, 3
SPACE = CodeSpace((3, 4))
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 3, (BATCH, TOKENS, 2)), jnp.int32)
BITS = CODES % 2
MASK = jnp.asarray([[False, True, True], [True, True, True]])
CONDITION = Condition(normal(2, BATCH, TEXT, 6), MASK, batch_axis=1)

AR = LatentTransformer(SPACE, TOKENS, 2, 2, 4, causal=True, timed=False, conditioner=LayerwiseConditioner())
DIFFUSION = LatentTransformer(
    CodeSpace.binary(2), TOKENS, 2, 2, 4, causal=False, timed=True, conditioner=LayerwiseConditioner()
)
T = jnp.asarray([0.25, 0.75])


@pytest.fixture(scope="module")
def ar():
    variables = filled(AR, CODES, CONDITION)
    return variables, np.asarray(jax.jit(AR.apply)(variables, CODES, CONDITION))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda v, c: AR.apply(v, c, TOKENS, method="start"))


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda v, *args: AR.apply(v, *args, method="step"))


def shifted(codes):
    """The token before each; nonsense before the first, where the start vector must stand."""
    return jnp.concatenate([jnp.full_like(codes[:, :1], 2), codes[:, :-1]], axis=1)


@pytest.mark.parametrize("chunks", [(1, 1), (2, 3)], ids=str)
def test_cached_steps_give_the_logits_of_the_whole_sequence(ar, start, step, chunks):
    variables, whole = ar
    cache, first = start(variables, CONDITION), 0
    for size in chunks:
        positions = jnp.broadcast_to(jnp.arange(first, first + size), (BATCH, size))
        logits, cache = step(variables, cache, shifted(CODES)[:, first : first + size], positions, None)
        np.testing.assert_allclose(logits, whole[:, first : first + size], atol=1e-5)
        first += size
    assert cache.length.tolist() == [first] * BATCH and logits.dtype == jnp.float32


def test_logits_do_not_depend_on_later_tokens_or_hidden_text(ar):
    variables, whole = ar
    run = jax.jit(AR.apply)
    later = run(variables, CODES.at[:, 3:].set(2 - CODES[:, 3:]), CONDITION)
    np.testing.assert_allclose(later[:, :4], whole[:, :4], atol=1e-6)
    assert np.abs(later - whole)[:, 4].max() > 1e-3
    padding = dataclasses.replace(CONDITION, features=CONDITION.features.at[:, 0, 0].set(9.0))
    np.testing.assert_allclose(run(variables, CODES, padding), whole, atol=1e-6)
    text = dataclasses.replace(CONDITION, features=CONDITION.features.at[:, 0, 1].set(9.0))
    changed = np.abs(run(variables, CODES, text) - whole).max((1, 2))
    assert changed[0] > 1e-3 and changed[1] < 1e-6


def test_embeddings_are_taken_where_codes_are(ar, start, step):
    variables, whole = ar
    embedded = AR.apply(variables, shifted(CODES), method="embed")
    positions = jnp.broadcast_to(jnp.arange(TOKENS), (BATCH, TOKENS))
    logits, _ = step(variables, start(variables, CONDITION), embedded, positions, None)
    np.testing.assert_allclose(logits, whole, atol=1e-5)


def test_rejected_tokens_leave_no_trace(ar, start, step):
    """Speculation: three draft tokens, the second is wrong, generation goes on behind the first."""
    variables, whole = ar
    cache, inputs = start(variables, CONDITION), shifted(CODES)
    at = lambda *where: jnp.broadcast_to(jnp.asarray(where), (BATCH, len(where)))
    draft = inputs[:, :3].at[:, 2].set(2 - inputs[:, 2])
    _, cache = step(variables, cache, draft, at(0, 1, 2), None)
    cache = cache.keep(at(0, 1))
    logits, _ = step(variables, cache, inputs[:, 2:5], at(2, 3, 4), None)
    np.testing.assert_allclose(logits, whole[:, 2:5], atol=1e-5)


def test_a_tree_of_drafts_sees_only_its_own_branch(ar, start, step):
    """Two alternatives for token 1 in one step, told apart by the mask."""
    variables, whole = ar
    at = lambda *where: jnp.broadcast_to(jnp.asarray(where), (BATCH, len(where)))
    _, cache = step(variables, start(variables, CONDITION), shifted(CODES)[:, :1], at(0), None)
    drafts = jnp.concatenate([2 - CODES[:, :1], CODES[:, :1]], axis=1)
    mask = (
        jnp.zeros((BATCH, 2, TOKENS + 2), bool)
        .at[:, :, 0]
        .set(True)
        .at[:, [0, 1], [TOKENS, TOKENS + 1]]
        .set(True)
    )
    logits, cache = step(variables, cache, drafts, at(1, 1), mask)
    np.testing.assert_allclose(logits[:, 1], whole[:, 1], atol=1e-5)
    assert np.abs(logits[:, 0] - whole[:, 1]).max() > 1e-3
    logits, _ = step(variables, cache.keep(at(0, 2)), CODES[:, 1:2], at(2), None)
    np.testing.assert_allclose(logits[:, 0], whole[:, 2], atol=1e-5)


def test_a_timed_network_uses_its_time_and_its_projected_condition():
    variables = filled(DIFFUSION, BITS, CONDITION, T)

    @jax.jit
    def run(variables, bits, t):
        cache = DIFFUSION.apply(variables, CONDITION, 0, method="start")
        return DIFFUSION.apply(variables, bits, CONDITION, t), DIFFUSION.apply(
            variables, bits, None, t, cache
        )

    whole, cached = run(variables, BITS, T)
    assert whole.shape == (BATCH, TOKENS, 2)
    np.testing.assert_allclose(cached, whole, atol=1e-5)
    assert np.abs(run(variables, BITS, T.at[0].set(0.5))[0] - whole).max((1, 2)).argmax() == 0
    # All tokens see all tokens: the last one changes the first one's logits.
    assert np.abs(run(variables, BITS.at[:, -1].set(1 - BITS[:, -1]), T)[0] - whole)[:, 0].max() > 1e-4


@pytest.mark.parametrize("network, extra", [(AR, ()), (DIFFUSION, (T,))], ids=["ar", "diffusion"])
def test_half_precision_is_finite_and_its_logits_are_float32(network, extra):
    half = network.clone(dtype=jnp.bfloat16)
    codes = CODES if network is AR else BITS
    variables = filled(network, codes, CONDITION, *extra)
    logits = jax.jit(half.apply)(variables, codes, CONDITION, *extra)
    assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
    np.testing.assert_allclose(logits, jax.jit(network.apply)(variables, codes, CONDITION, *extra), atol=0.1)


CONDITIONS = {
    "class": (ClassConditioner(3, 6), ClassConditioner(3, 6).condition(jnp.asarray([0, 2]))),
    "text": (
        TextConditioner(ByteEncoder(1, 1, 4)),
        Condition(jnp.asarray([[5, 6, 0], [7, 8, 9]]), jnp.asarray([[True, True, False], [True] * 3])),
    ),
    "features for all layers": (LayerwiseConditioner(), Condition(normal(BATCH, TEXT, 6), MASK)),
    "none": (None, None),
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_every_kind_of_condition_fits_every_use(kind):
    conditioner, condition = CONDITIONS[kind]
    network = AR.clone(conditioner=conditioner)

    def everything():
        variables = network.init(jax.random.key(0), CODES, condition)
        cache = network.apply(variables, condition, TOKENS, BATCH, method="start")
        logits, cache = network.apply(
            variables, cache, CODES[:, :1], jnp.zeros((BATCH, 1), jnp.int32), method="step"
        )
        return network.apply(variables, CODES, condition), logits, cache

    whole, logits, cache = jax.eval_shape(everything)
    assert whole.shape == (BATCH, TOKENS, 7) and logits.shape == (BATCH, 1, 7) and cache.capacity == TOKENS


def test_the_null_class_is_one_more_class():
    conditioner, condition = CONDITIONS["class"]
    assert condition.unconditional().features.tolist() == [3, 3]
    assert filled(conditioner, condition)["params"]["embedding"]["embedding"].shape == (4, 6)


@pytest.mark.parametrize(
    "network, args, message",
    [
        (AR, (CODES,), "needs a condition, but no condition was given"),
        (AR.clone(conditioner=None), (CODES, CONDITION), "has no condition, but a condition was given"),
        (AR, (CODES, CONDITION, T), "not timed"),
        (DIFFUSION, (BITS, CONDITION), "t=None, but this network is timed"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(network, args, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), *args))


def test_a_cache_needs_to_know_its_batch():
    network = AR.clone(conditioner=None)
    with pytest.raises(ValueError, match="needs `batch`"):
        jax.eval_shape(lambda: network.init(jax.random.key(0), None, TOKENS, method="start"))
