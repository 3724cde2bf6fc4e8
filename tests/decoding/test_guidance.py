import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Condition
from jaxtok.decoding.guidance import (
    GUIDANCE_RULES,
    NEUTRAL_STRENGTH,
    Projection,
    guidance_strength,
    guide,
    guide_stacked,
    with_unconditional,
)
from tests.filled import normal

C, U = jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, 1.0])


def test_the_two_rules_differ_by_one_in_the_strength():
    np.testing.assert_array_equal(guide(C, U, 0.0), C)
    np.testing.assert_array_equal(guide(C, U, 0.0, "u+s(c-u)"), U)
    np.testing.assert_allclose(guide(C, U, 2.0), 3 * np.asarray(C) - 2 * np.asarray(U))
    np.testing.assert_allclose(guide(C, U, 2.0), guide(C, U, 3.0, "u+s(c-u)"))
    with pytest.raises(ValueError, match="choose one of"):
        guide(C, U, 1.0, "cfg")


def test_both_halves_go_through_the_network_together():
    null = Condition(jnp.full((2, 1, 3, 1), 9.0), jnp.asarray([[False, False, True]]), batch_axis=1)
    condition = Condition(jnp.zeros((2, 4, 3, 1)), jnp.ones((4, 3), bool), null=null, batch_axis=1)
    both = jax.jit(with_unconditional)(condition)
    assert both.batch == 8 and both.null is None
    np.testing.assert_array_equal(both.features[:, 4:], 9.0)
    np.testing.assert_array_equal(both.mask, [[True] * 3] * 4 + [[False, False, True]] * 4)
    guided = guide_stacked(jnp.concatenate([C[:, None], U[:, None]]), 2.0, "c+s(c-u)")
    np.testing.assert_allclose(guided[:, 0], guide(C, U, 2.0))


def test_a_null_text_keeps_its_mask_beside_texts_without_one():
    null = Condition(jnp.zeros((1, 3), jnp.int32), jnp.asarray([[True, False, False]]))
    both = with_unconditional(Condition(jnp.ones((2, 3), jnp.int32), null=null))
    np.testing.assert_array_equal(both.mask, [[True] * 3] * 2 + [[True, False, False]] * 2)


@pytest.mark.parametrize("rule", list(GUIDANCE_RULES))
def test_the_neutral_strength_gives_the_conditional_model(rule):
    np.testing.assert_allclose(guide(C, U, NEUTRAL_STRENGTH[rule], rule), C)


def test_schedules_go_from_start_to_strength():
    r = np.linspace(0, 1, 6)
    found = {
        name: np.asarray(guidance_strength(7.0, r, name, power=2.0, start=1.0))
        for name in ("constant", "linear", "power-cosine")
    }
    np.testing.assert_array_equal(found["constant"], np.full(6, 7.0))
    np.testing.assert_allclose(found["linear"], 1 + 6 * r, rtol=1e-6)
    np.testing.assert_allclose(found["power-cosine"], 1 + 3 * (1 - np.cos(np.pi * r**2)), atol=1e-5)
    with pytest.raises(ValueError, match="schedule 'cosine'; choose one of"):
        guidance_strength(7.0, 0.5, "cosine")


def test_projected_guidance_leaves_the_conditional_direction_alone():
    c, u, before = (normal(3, 4, 5, seed=seed) for seed in range(3))
    flat = lambda x: np.asarray(x).reshape(3, -1)
    guided, average = jax.jit(Projection())(c, u, 7.5, before)
    np.testing.assert_allclose(average, c - u - 0.5 * before, atol=1e-6)
    np.testing.assert_allclose(np.sum(flat(guided - c) * flat(c), axis=1), 0, atol=1e-4)
    assert np.all(np.linalg.norm(flat(guided - c), axis=1) <= 6.5 * 2.5 + 1e-4)
    np.testing.assert_array_equal(Projection()(c, u, 1.0, before)[0], c)
    # Without momentum, threshold and projection it is the plain rule.
    plain, _ = Projection(momentum=0.0, threshold=0.0, parallel=1.0)(c, u, 3.0, jnp.zeros_like(c))
    np.testing.assert_allclose(plain, guide(c, u, 3.0, "u+s(c-u)"), atol=1e-5)
    short, _ = Projection(momentum=0.0, threshold=0.1, parallel=1.0)(c, u, 2.0, jnp.zeros_like(c))
    np.testing.assert_allclose(np.linalg.norm(flat(short - c), axis=1), 0.1, rtol=1e-4)
