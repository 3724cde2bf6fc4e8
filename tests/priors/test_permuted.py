import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.keys import example_keys
from jaxtok.nn.masked_transformer import masked_vocab
from jaxtok.nn.permuted_transformer import PermutedTransformer
from jaxtok.priors.autoregressive import Autoregressive
from jaxtok.priors.contract import Prior
from jaxtok.priors.permuted import Permuted, PermutedSettings
from jaxtok.systems.objectives import PriorObjective
from tests.filled import filled

SPACE, TOKENS, BATCH = CodeSpace((4,)), 4, 3
NETWORK = PermutedTransformer(masked_vocab(SPACE, 2), TOKENS, 1, 1, 8, 8)
LABELS = jnp.asarray([0, 1, 1])
CONDITION = NETWORK.class_condition(LABELS)
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 4, (BATCH, TOKENS, 1)), jnp.int32)
PARAMS = filled(NETWORK, CODES, CONDITION)["params"]
METHOD = Permuted(SPACE, condition_dropout=0.0, random_until=100, raster_from=200)
GREEDY = PermutedSettings(guidance=0.0, temperature=0.0)


def test_the_random_part_falls_from_one_to_zero():
    shares = jax.jit(jax.vmap(lambda step: METHOD.at(step).random_share))
    steps = jnp.asarray([0, 99, 100, 150, 175, 200, 10_000])
    np.testing.assert_allclose(shares(steps), [1, 1, 1, 0.5, 0.25, 0, 0], atol=1e-6)
    sudden = dataclasses.replace(METHOD, random_until=200)
    assert [float(sudden.at(step).random_share) for step in (199, 200)] == [1, 0]
    never = dataclasses.replace(METHOD, random_until=0, raster_from=0)
    assert float(never.at(0).random_share) == 0
    with pytest.raises(ValueError, match=r"random_until=3 must lie in \[0, raster_from=2\]"):
        Permuted(SPACE, random_until=3, raster_from=2)


def test_every_order_is_as_likely_as_any_other():
    rows = 12_000
    keys = example_keys(jax.random.key(0), rows)
    method = dataclasses.replace(METHOD, random_share=0.75)
    orders = np.asarray(jax.jit(lambda keys: method.draw_orders(keys, 3))(keys))
    expected = {order: 0.125 for order in itertools.permutations(range(3))}
    expected[0, 1, 2] += 0.25
    for order, p in expected.items():
        found = (orders == order).all(axis=1).mean()
        assert abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / rows), order


def test_one_compiled_update_serves_all_steps_and_ends_with_plain_next_token_prediction():
    objective = PriorObjective(
        Prior(NETWORK, METHOD), lambda _, batch: Latents(batch["image"]), lambda batch, _: CONDITION
    )
    plain = Prior(NETWORK, Autoregressive(SPACE, condition_dropout=0.0))
    traces, key = [], jax.random.key(0)

    @jax.jit
    def run(params, step):
        traces.append(step)
        variables, batch, frozen = {"params": params}, {"image": CODES}, {"tokenizer": {}}
        terms = objective.loss(variables, batch, frozen, key, step)
        orders = METHOD.at(step).draw_orders(example_keys(key, BATCH), TOKENS)
        apply = lambda params, codes, condition: plain.apply(params, codes, condition, orders)
        return {
            "loss": terms.total,
            "share": terms.metrics["random_share"],
            "orders": orders,
            "in those orders": plain.method.loss(apply, params, Latents(CODES), CONDITION, key)[0],
            "plain": plain.loss(params, Latents(CODES), CONDITION, key)[0],
            "held out": objective.held_out(variables, batch, frozen, key),
        }

    early, late = run(PARAMS, 0), run(PARAMS, 500)
    assert len(traces) == 1 and (early["share"], late["share"]) == (1, 0)
    rows = np.tile(np.arange(TOKENS), (BATCH, 1))
    np.testing.assert_array_equal(late["orders"], rows)
    assert (early["orders"] != rows).any() and abs(early["loss"] - late["loss"]) > 1e-3
    np.testing.assert_allclose(early["loss"], early["in those orders"], rtol=1e-5)
    for name in ("in those orders", "plain", "held out"):
        np.testing.assert_allclose(late["loss"], late[name], rtol=1e-5, err_msg=name)


def test_given_tokens_come_first_and_steer_all_others():
    """Greedy completion is the likeliest token, one after the other, given ones first."""
    mask = np.zeros((BATCH, TOKENS, 1), bool)
    mask[:, 2] = mask[1, 3] = True
    given = np.full((BATCH, TOKENS, 1), 3, np.int32)
    prior = Prior(NETWORK, METHOD)

    @jax.jit
    def run(params, codes):
        first, behind = (
            prior.sample(
                params,
                CONDITION,
                jax.random.key(0),
                given=Latents(codes, mask=mask),
                settings=dataclasses.replace(GREEDY, given_first=given_first),
            ).codes
            for given_first in (True, False)
        )
        orders = jnp.asarray([[2, 0, 1, 3], [2, 3, 0, 1], [2, 0, 1, 3]])
        # With guidance both halves of the batch take the same order.
        guided = prior.sample(params, CONDITION, jax.random.key(0), given=Latents(codes, mask=mask)).codes
        whole = prior.apply(params, first, CONDITION, orders), prior.apply(params, behind, CONDITION)
        return first, whole[0], behind, whole[1], guided

    first, logits, behind, raster, guided = run(PARAMS, given)
    for drawn, likeliest in ((first, logits.argmax(-1)), (behind, raster.argmax(-1))):
        np.testing.assert_array_equal(drawn[mask], 3)
        np.testing.assert_array_equal(drawn[..., 0], np.where(mask[..., 0], 3, likeliest))
    # What lies before a given token hears of it only where that comes first.
    other = run(PARAMS, np.where(mask, 0, given))
    np.testing.assert_array_equal(other[2][:, :2], behind[:, :2])
    assert (np.asarray(other[0][:, :2]) != np.asarray(first[:, :2])).any()
    np.testing.assert_array_equal(np.asarray(guided)[mask], 3)


def test_of_a_few_drawn_tokens_those_are_present_that_came_first():
    mask = np.zeros((BATCH, TOKENS, 1), bool)
    mask[:, 2] = True
    given = Latents(np.full((BATCH, TOKENS, 1), 3, np.int32), mask=mask)
    settings = dataclasses.replace(GREEDY, tokens=2)
    drawn = jax.jit(
        lambda params: Prior(NETWORK, METHOD).sample(
            params, CONDITION, jax.random.key(0), given=given, settings=settings
        )
    )(PARAMS)
    np.testing.assert_array_equal(drawn.mask[..., 0], [[True, False, True, False]] * BATCH)
    np.testing.assert_array_equal(drawn.codes[:, 2, 0], 3)
