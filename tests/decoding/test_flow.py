import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decoding.flow import FlowSettings, flow_course, sample_flow, sample_guided_flow
from jaxtok.decoding.guidance import Projection
from tests.filled import normal

DATA, NOISE, OTHER = normal(2, 3, 3, 1), normal(2, 3, 3, 1, seed=1), normal(2, 3, 3, 1, seed=2)
run = jax.jit(sample_flow, static_argnums=(0, 2))


@pytest.mark.parametrize("steps", [1, 7])
def test_the_true_velocity_leads_from_noise_to_data(steps):
    np.testing.assert_allclose(run(lambda x, t: NOISE - DATA, NOISE, steps), DATA, atol=2e-6)


def test_the_steps_are_those_of_euler():
    velocity = lambda x, t: t[:, None, None, None] * x
    x = np.asarray(NOISE)
    np.testing.assert_allclose(flow_course(4), [1, 0.75, 0.5, 0.25])
    for t in (1, 0.75, 0.5, 0.25):
        x = x - t * x / 4
    np.testing.assert_allclose(run(velocity, NOISE, 4), x, atol=1e-6)


def test_guidance_of_strength_one_changes_nothing_and_may_depend_on_the_time():
    conditional = lambda x, t: x * t[:, None, None, None] + DATA
    both = lambda x, t: (conditional(x, t), OTHER)
    plain = run(conditional, NOISE, 3)
    guided = jax.jit(sample_guided_flow, static_argnums=(0, 2, 3, 4))
    for projection in (None, Projection()):
        np.testing.assert_allclose(guided(both, NOISE, 3, 1.0, projection), plain, atol=1e-6)
    late = guided(both, NOISE, 3, lambda t: jnp.where(t > 0.9, 1.0, 4.0), None)
    x = NOISE - conditional(NOISE, jnp.ones(2)) / 3
    for t in (2 / 3, 1 / 3):
        c = conditional(x, jnp.full(2, t))
        x = x - (OTHER + 4 * (c - OTHER)) / 3
    np.testing.assert_allclose(late, x, atol=1e-5)


def test_settings_say_how_strong_guidance_is_when():
    settings = FlowSettings(guidance=5.0, schedule="linear")
    assert (settings.strength(jnp.asarray(1.0)), settings.strength(jnp.asarray(0.25))) == (1, 4)
    assert settings.guided and not FlowSettings(guidance=1.0).guided
    with pytest.raises(ValueError, match="steps=0 must be"):
        FlowSettings(steps=0)
