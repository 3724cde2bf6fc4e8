import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.decoding.flow import FlowSettings, flow_course
from jaxtok.inspect import bit_trajectory, flow_trajectory, plot_trajectory
from jaxtok.inspect.trajectories import _states
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.priors.binary_diffusion import BinaryDiffusion, DiffusionSettings
from jaxtok.priors.contract import Prior
from jaxtok.quantize.fsq import FSQ
from jaxtok.tokenizers.flow_decoder import FlowDecoder
from jaxtok.tokenizers.flow_tokenizer import FlowTokenizer
from jaxtok.tokenizers.registers import RegisterEncoder, RegisterShape
from tests.filled import filled, normal
from tests.inspect.rendering import render, texts


@pytest.mark.slow
def test_a_guided_flow():
    shape, settings = RegisterShape(1, 1, 4), FlowSettings(steps=3, guidance=2.0, rule="u+s(c-u)")
    parts = (
        RegisterEncoder(shape, 2, (1, 1), 2, 2),
        FSQ((3, 3)),
        FlowDecoder(shape, 2, (1, 1), 2, 1, frequencies=2),
    )
    tokenizer = FlowTokenizer(*parts, (2, 2), settings=settings)
    codes, noise = jnp.zeros((2, 2, 2), jnp.int32), normal(2, 2, 2, 1, seed=3)
    variables = filled(tokenizer, jnp.zeros((2, 2, 2, 1)), x=noise, t=jnp.ones(2))
    draw = jax.jit(lambda: tokenizer.apply(variables, codes, noise=noise, method="decode"))
    drawn = draw()
    course = flow_trajectory(draw)
    np.testing.assert_allclose(course.final, drawn, atol=1e-6)
    np.testing.assert_allclose(course.times, flow_course(3))
    assert course.states.shape == course.predictions.shape == (3, 2, 2, 2, 1)
    np.testing.assert_array_equal(course.states[0], noise)

    @jax.jit
    def expected(variables):
        network = tokenizer.decoder.bind({name: tree["decoder"] for name, tree in variables.items()})
        values = tokenizer.apply(variables, codes, method="embed")
        conditional, null = network.conditioning(values), network.conditioning(values, null=jnp.ones(2, bool))
        c, u = (network.velocity(noise, jnp.ones(2), x)[0] for x in (conditional, null))
        return noise - (u + 2.0 * (c - u))

    np.testing.assert_allclose(course.predictions[0], expected(variables), atol=1e-5)
    np.testing.assert_allclose(course.predictions[-1], drawn, atol=1e-5)
    figure = plot_trajectory(course, samples=1, columns=2)
    render(figure)
    assert {"t 1.00", "t 0.33", "result", "now", "expected"} <= set(texts(figure))


@pytest.mark.slow
def test_bits():
    network = LatentTransformer(CodeSpace.binary(3), 4, 1, 1, 4, causal=False, timed=True)
    prior = Prior(network, BinaryDiffusion(settings=DiffusionSettings(steps=4, guidance=0.0)))
    params = filled(network, jnp.zeros((2, 4, 3), jnp.int32), None, jnp.zeros(2))["params"]
    sample = jax.jit(lambda: prior.sample(params, None, jax.random.key(0), batch=2))
    drawn = np.asarray(sample().codes)
    course = bit_trajectory(sample)
    np.testing.assert_array_equal(course.final, drawn)
    np.testing.assert_allclose(course.times, [1, 0.75, 0.5, 0.25])
    np.testing.assert_array_equal(course.predictions[-1] > 0.5, drawn == 1)
    assert set(np.unique(course.states)) == {0, 1} and (course.states[0] != drawn).any()
    figure = plot_trajectory(course, lambda codes: codes[..., None] * np.float32(2) - 1)
    render(figure)
    assert texts(figure).count("expected") == 2


def test_another_sampler():
    with pytest.raises(ValueError, match="ran no such sampler"):
        flow_trajectory(lambda: jnp.zeros((1, 2, 2, 1)))


def test_what_was_decoded_is_no_state():
    with pytest.raises(ValueError, match="before anything decodes it"):
        _states([("", (np.zeros((2, 4, 3)), np.ones(2)))], np.zeros((2, 8, 8, 1)))
