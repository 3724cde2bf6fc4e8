import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Vocab
from jaxtok.nn.masked_transformer import masked_vocab
from jaxtok.nn.permuted_transformer import PermutedTransformer
from tests.filled import filled

BATCH, TOKENS, SPACE = 2, 6, CodeSpace((2, 3))
RNG = np.random.default_rng(0)
CODES = jnp.asarray(np.stack([RNG.integers(0, k, (BATCH, TOKENS)) for k in SPACE.levels], -1), jnp.int32)
ORDERS = jnp.asarray([[3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]])
NETWORK = PermutedTransformer(masked_vocab(SPACE, 3), TOKENS, 2, 2, 8, 12)
CONDITION = NETWORK.class_condition(jnp.asarray([0, 2]))
VARIABLES = filled(NETWORK, CODES, CONDITION)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(NETWORK.apply)


@pytest.fixture(scope="module")
def whole(apply):
    return {
        "raster": apply(VARIABLES, CODES, CONDITION),
        "orders": apply(VARIABLES, CODES, CONDITION, ORDERS),
    }


def test_cached_steps_give_the_logits_of_the_whole_sequence(whole):
    @jax.jit
    def run(variables, orders):
        arranged = jnp.take_along_axis(CODES, orders[..., None], axis=1)
        # What is given at place 0 must not matter.
        before = jnp.concatenate([jnp.ones_like(CODES[:, :1]), arranged[:, :-1]], axis=1)
        cache = NETWORK.apply(variables, CONDITION, TOKENS, method="start").in_order(orders)
        found, first = [], 0
        for size in (2, 4):
            places = jnp.broadcast_to(jnp.arange(first, first + size), (BATCH, size))
            inputs = before[:, first : first + size]
            if first == 2:  # a guess that is taken back
                _, other = NETWORK.apply(variables, cache, 1 - inputs // 2, places, method="step")
                cache = other.keep(jnp.broadcast_to(jnp.arange(first), (BATCH, first)))
                inputs = NETWORK.apply(variables, inputs, method="embed")
            logits, cache = NETWORK.apply(variables, cache, inputs, places, method="step")
            found.append(logits)
            first += size
        return jnp.concatenate(found, axis=1), cache.length

    for name, orders in (("raster", np.tile(np.arange(TOKENS), (BATCH, 1))), ("orders", ORDERS)):
        logits, length = run(VARIABLES, jnp.asarray(orders))
        expected = np.take_along_axis(np.asarray(whole[name]), np.asarray(orders)[..., None], axis=1)
        np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=name)
        assert length.tolist() == [TOKENS] * BATCH and logits.dtype == jnp.float32


def test_the_order_in_which_tokens_lie_is_an_order(apply, whole):
    identity = jnp.broadcast_to(jnp.arange(TOKENS), (BATCH, TOKENS))
    np.testing.assert_allclose(apply(VARIABLES, CODES, CONDITION, identity), whole["raster"], atol=1e-6)
    assert np.abs(whole["orders"] - whole["raster"]).max() > 1e-2


@pytest.mark.parametrize("order", ["raster", "orders"])
def test_a_token_is_seen_by_those_behind_it_in_the_order_and_by_no_other(apply, whole, order):
    orders = np.broadcast_to(np.arange(TOKENS), (BATCH, TOKENS)) if order == "raster" else np.asarray(ORDERS)
    changed = CODES.at[:, 3, 1].set((CODES[:, 3, 1] + 1) % 3)
    arguments = () if order == "raster" else (ORDERS,)
    difference = np.abs(apply(VARIABLES, changed, CONDITION, *arguments) - whole[order]).max(axis=-1)
    for row in range(BATCH):
        place = orders[row].tolist().index(3)
        assert (difference[row, orders[row, : place + 1]] == 0).all()
        assert (difference[row, orders[row, place + 1 :]] > 1e-4).all()


def test_targets_tell_which_token_comes_next(apply):
    """Without them two orders that have begun alike say the same, whichever token comes next."""
    swapped = ORDERS.at[0].set(jnp.asarray([3, 0, 1, 5, 4, 2]))
    blind = {"params": {**VARIABLES["params"], "targets": jnp.zeros_like(VARIABLES["params"]["targets"])}}
    for variables, alike in ((VARIABLES, False), (blind, True)):
        a, b = (apply(variables, CODES, CONDITION, orders) for orders in (ORDERS, swapped))
        np.testing.assert_allclose(a[0, jnp.asarray([3, 0])], b[0, jnp.asarray([3, 0])], atol=1e-6)
        assert bool(np.abs(a[0, 5] - b[0, 1]).max() < 1e-5) == alike


def test_no_class_is_one_more_class(apply, whole):
    null = apply(VARIABLES, CODES, CONDITION.unconditional())
    np.testing.assert_array_equal(apply(VARIABLES, CODES, NETWORK.class_condition(jnp.asarray([3, 3]))), null)
    assert np.abs(null - whole["raster"]).max() > 1e-3
    # A network without classes knows nothing else.
    unconditional = NETWORK.clone(vocab=Vocab(SPACE, (("mask", 1), ("null", 1))))
    rows = jnp.asarray([*range(6), 9])  # the codes, the mask and "no class" of the other table
    table = VARIABLES["params"]["table"][rows]
    params = {**VARIABLES["params"], "table": table[: unconditional.vocab.size]}
    assert unconditional.vocab.size == 7 and NETWORK.vocab.id("null") == 9
    np.testing.assert_allclose(jax.jit(unconditional.apply)({"params": params}, CODES), null, atol=1e-6)


def test_a_fresh_network_reads_nothing_but_its_last_element():
    """Blocks begin as the identity (AdaLN-Zero): only the token right before it can matter."""
    network = NETWORK.clone(layers=1)

    @jax.jit
    def run(key):
        variables = network.init(key, CODES, CONDITION)
        changed = CODES.at[:, 0, 1].set((CODES[:, 0, 1] + 1) % 3)
        return network.apply(variables, CODES, CONDITION), network.apply(variables, changed, CONDITION)

    logits, other = run(jax.random.key(0))
    difference = np.abs(logits - other).max(axis=(0, 2))
    assert difference[1] > 0 and (difference[[0, 2, 3, 4, 5]] == 0).all()


def test_what_does_not_fit_is_said():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="needs a condition, but no condition was given"):
        jax.eval_shape(lambda: NETWORK.init(key, CODES))
    with pytest.raises(ValueError, match=r"orders of shape \(2, 5\) for codes of shape \(2, 6, 2\)"):
        jax.eval_shape(lambda: NETWORK.init(key, CODES, CONDITION, ORDERS[:, :5]))
    with pytest.raises(ValueError, match=r"orders of shape \(1, 6\); this cache has \(2, 6\)"):
        jax.eval_shape(
            lambda: NETWORK.apply(VARIABLES, CONDITION, TOKENS, method="start").in_order(ORDERS[:1])
        )
    unconditional = NETWORK.clone(vocab=Vocab(SPACE, (("null", 1),)))
    with pytest.raises(ValueError, match="needs `batch`"):
        jax.eval_shape(lambda: unconditional.init(key, None, TOKENS, method="start"))
    assert unconditional.class_condition(jnp.zeros(2, jnp.int32)) is None
