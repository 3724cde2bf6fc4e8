import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decoding.diffusion import (
    GaussianDiffusion,
    data_of,
    sample_diffusion,
    step_back,
    variance_between,
)
from jaxtok.keys import example_keys


def exact_tables(betas):
    """The textbook's formulas, one step at a time."""
    kept, rows = 1.0, []
    for beta in betas:
        before, kept = kept, kept * (1 - beta)
        variance = beta * (1 - before) / (1 - kept)
        from_data = beta * math.sqrt(before) / (1 - kept)
        rows.append((kept, from_data, (1 - before) * math.sqrt(1 - beta) / (1 - kept), variance))
    return np.array(rows).T


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_tables_are_those_of_the_textbook(schedule):
    diffusion = GaussianDiffusion(20, schedule)
    course, (kept, from_data, from_noised, variance) = diffusion.course(), exact_tables(diffusion.betas())
    np.testing.assert_allclose(course.kept, kept, rtol=1e-5)
    np.testing.assert_allclose(course.from_data, from_data, rtol=1e-5)
    np.testing.assert_allclose(course.from_noised, from_noised, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(course.lower[1:], np.log(variance[1:]), rtol=1e-5)
    assert course.lower[0] == course.lower[1]
    np.testing.assert_allclose(course.upper, np.log(diffusion.betas()), rtol=1e-5)


def test_a_shorter_course_has_both_ends_and_noise_as_strong_at_its_times():
    diffusion = GaussianDiffusion()
    whole, short = diffusion.course(), diffusion.course(100)
    times = short.times.astype(int)
    assert (len(times), times[0], times[-1]) == (100, 0, 999) and np.all(np.diff(times) >= 10)
    np.testing.assert_array_equal(short.kept, whole.kept[times])
    betas = 1 - np.float64(short.kept) / np.concatenate([[1.0], short.kept[:-1]])
    np.testing.assert_allclose(short.from_data[1:], exact_tables(betas)[1][1:], rtol=1e-3)


def test_where_the_noise_is_known_the_loop_ends_at_the_data():
    course, data = GaussianDiffusion(50).course(), jnp.asarray([[[0.3, -1.2]], [[2.0, 0.1]]])

    @jax.jit
    def run(key):
        def denoiser(x, t):
            kept = jnp.asarray(course.kept)[t.astype(int)][..., None]
            return (x - jnp.sqrt(kept) * data) / jnp.sqrt(1 - kept), jnp.zeros_like(x)

        keys = example_keys(key, 2)
        return sample_diffusion(denoiser, jax.random.normal(key, data.shape), keys, course)

    np.testing.assert_allclose(run(jax.random.key(0)), data, atol=1e-5)


def test_a_step_back_has_the_mean_and_the_variance_it_says():
    course, index = GaussianDiffusion(20).course(), jnp.asarray([[7]])
    x, data = jnp.asarray([[[0.4]]]), jnp.asarray([[[-0.2]]])
    mean, lower, upper = step_back(course, index, x, data)
    np.testing.assert_allclose(
        mean[0, 0], course.from_data[7] * -0.2 + course.from_noised[7] * 0.4, rtol=1e-6
    )
    bounds = [variance_between(jnp.float32(v), lower, upper)[0, 0, 0] for v in (-1, 0, 1)]
    np.testing.assert_allclose(
        bounds, [course.lower[7], (course.lower[7] + course.upper[7]) / 2, course.upper[7]], rtol=1e-6
    )
    noise = (x - math.sqrt(course.kept[7]) * data) / math.sqrt(1 - course.kept[7])
    np.testing.assert_allclose(data_of(course, index, x, noise), data, rtol=1e-5)


def test_what_is_no_diffusion_is_refused():
    with pytest.raises(ValueError, match="steps=1 must be at least 2"):
        GaussianDiffusion(1)
    with pytest.raises(ValueError, match="schedule='sine'"):
        GaussianDiffusion(10, "sine")
    for steps in (1, 11):
        with pytest.raises(ValueError, match=f"steps={steps} of a diffusion in 10 steps; choose 2 to 10"):
            GaussianDiffusion(10).course(steps)
