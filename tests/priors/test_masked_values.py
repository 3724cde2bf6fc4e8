import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Condition, Latents
from jaxtok.decoding.diffusion import GaussianDiffusion
from jaxtok.keys import example_keys
from jaxtok.nn.canvas import Canvas
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked_values import MaskedValues, MaskedValueSettings
from jaxtok.priors.token_diffusion import diffusion_terms, noised

DIFFUSION = GaussianDiffusion(30)
CONDITION = Condition(jnp.asarray([1.0, 2.0, 3.0]), null=Condition(jnp.zeros(1)))


class Oracle:
    """A network that knows the tokens: condition + place; minus one without a condition. `asked` counts."""

    space, tokens, channels = None, 6, 2

    def apply(self, variables, *args, method=None):
        return getattr(self, method or "predict")(*args)

    def predict(self, values, condition, masked):
        return self.step(self.start(condition, 6), values, jnp.arange(6)[None], ~masked)[0]

    def start(self, condition, capacity, batch=None):
        rows = condition.batch
        known = jnp.zeros((rows, self.tokens), bool)
        empty = jnp.zeros((rows, self.tokens, self.channels))
        return Canvas(None, None, empty, known, condition.features)

    def step(self, cache, inputs, positions, mask):
        """What each token should be: places that are known already count once more in the second channel."""
        target = cache.vector[:, None] + positions / 10
        target = jnp.where(cache.vector[:, None] == 0, -1.0, target)
        seen = jnp.sum(mask, axis=1, keepdims=True) + 0.0 * target
        return jnp.stack([target, seen], axis=-1), cache

    def denoise(self, x, t, z):
        kept = jnp.asarray(DIFFUSION.course().kept)[t.astype(int)][..., None]
        return (x - jnp.sqrt(kept) * z) / jnp.sqrt(1 - kept), jnp.zeros_like(x)


SETTINGS = MaskedValueSettings(3, guidance=0.0, diffusion_steps=0)
METHOD = MaskedValues(scale=0.5, diffusion=DIFFUSION, condition_dropout=0.0, settings=SETTINGS)
PRIOR = Prior(Oracle(), METHOD)


@pytest.fixture(scope="module")
def draw():
    @jax.jit
    def run(given):
        return PRIOR.sample({}, CONDITION, example_keys(jax.random.key(0), 3), given=given).values

    return run


def test_all_tokens_are_drawn_each_given_those_before_it(draw):
    values = draw(Latents(values=jnp.zeros((3, 6, 2)), mask=jnp.zeros((3, 6, 1), bool)))
    expected = (np.arange(1, 4)[:, None] + np.arange(6) / 10) / 0.5
    np.testing.assert_allclose(values[..., 0], expected, rtol=1e-4)
    # 6 cos(pi / 6) and 6 cos(pi / 3) are left after the steps, rounded down: 5, then 3 (in exact numbers), 0.
    seen = np.sort(np.asarray(values[..., 1]) * 0.5, axis=1)
    left = [int(6 * math.cos(math.pi / 6)), math.floor(6 * np.cos(math.pi / 3))]
    counts = np.repeat([0, 6 - left[0], 6 - left[1]], [6 - left[0], left[0] - left[1], left[1]])
    np.testing.assert_allclose(seen, np.tile(counts, (3, 1)), atol=1e-3)


def test_what_is_given_stays_and_is_seen(draw):
    mask = np.zeros((3, 6, 1), bool)
    mask[0, :4], mask[1] = True, True
    given = np.random.default_rng(0).standard_normal((3, 6, 2)).astype(np.float32)
    values = draw(Latents(values=jnp.asarray(given), mask=jnp.asarray(mask)))
    np.testing.assert_array_equal(np.where(mask, values, 0), np.where(mask, given, 0))
    np.testing.assert_allclose(values[0, 4:, 0], (1 + np.array([0.4, 0.5])) / 0.5, rtol=1e-4)
    assert np.all(np.asarray(values[0, 4:, 1]) * 0.5 > 4 - 1e-3)


def test_guidance_goes_from_the_text_to_beyond_it():
    settings = dataclasses.replace(SETTINGS, guidance=2.0, guidance_schedule="constant")

    @jax.jit
    def run():
        return PRIOR.sample({}, CONDITION, jax.random.key(0), settings=settings).values

    # c + 2 (c - u) of the noise is that of the data, whose unconditional side says -1.
    target = np.arange(1, 4)[:, None] + np.arange(6) / 10
    np.testing.assert_allclose(run()[..., 0], (target + 2 * (target + 1)) / 0.5, rtol=1e-4)


def test_the_loss_of_one_who_knows_is_the_bound_alone_and_counts_masked_tokens():
    target = jnp.asarray(np.arange(1, 4)[:, None] + np.arange(6) / 10, jnp.float32)
    seen = {}

    def apply(params, *args, method=None):
        if method is None:
            seen["masked"] = args[2]
            # Only what is masked is predicted right.
            wrong = jnp.where(args[2], target, target + 5)
            return jnp.stack([wrong, wrong], axis=-1)
        return PRIOR.network.apply(None, *args, method=method)

    @jax.jit
    def run(key):
        latents = Latents(values=jnp.stack([target, target], axis=-1) / 0.5)
        return METHOD.loss(apply, {}, latents, CONDITION, key), seen["masked"]

    (loss, metrics), masked = run(jax.random.key(1))
    np.testing.assert_allclose(metrics["noise_error"], 0, atol=1e-5)
    np.testing.assert_allclose(loss, metrics["noise_error"] + metrics["variance_bound"], rtol=1e-6)
    assert np.all(np.asarray(masked).sum(axis=1) >= 1) and not np.all(masked)


def test_the_terms_are_the_formulas():
    diffusion, rng = GaussianDiffusion(), np.random.default_rng(0)
    course = diffusion.course()
    data, noise, said = rng.standard_normal((3, 10, 4)) * np.array([0.8, 1, 1])[:, None, None]
    variance, index = rng.uniform(-1, 1, (10, 4)), np.array([0, 0, 0, 0, 0, 1, 5, 500, 998, 999])
    data[0], data[1] = 1.5, -1.5  # the outermost grey values
    said[3] = noise[3] + 3 * np.sign(data[3])  # far off on either side, where float32 has no differences
    said[4] = noise[4] - 3 * np.sign(data[4])
    said32 = jnp.asarray(said, jnp.float32)

    @jax.jit
    def run(said):
        clean, added, place = (jnp.asarray(x, jnp.float32) for x in (data, noise, variance))
        at = jnp.asarray(index)
        return *diffusion_terms(course, at, clean, added, said, place), noised(course, at, clean, added)

    error, bound, found = run(said32)
    np.testing.assert_allclose(error, ((said - noise) ** 2).mean(-1), rtol=1e-5)
    betas, kept = diffusion.betas(), np.cumprod(1 - diffusion.betas())
    before = np.concatenate([[1.0], kept[:-1]])
    tables = {
        "kept": kept,
        "from_data": betas * np.sqrt(before) / (1 - kept),
        "from_noised": (1 - before) * np.sqrt(1 - betas) / (1 - kept),
        "lower": np.log(
            np.maximum(betas * (1 - before) / (1 - kept), (betas * (1 - before) / (1 - kept))[1])
        ),
        "upper": np.log(betas),
    }
    tables = {name: table[index][:, None] for name, table in tables.items()}
    x = np.sqrt(tables["kept"]) * data + np.sqrt(1 - tables["kept"]) * noise
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)
    guess = (x - np.sqrt(1 - tables["kept"]) * said) / np.sqrt(tables["kept"])
    exact, mean = (tables["from_data"] * d + tables["from_noised"] * x for d in (data, guess))
    log_p = (1 + variance) / 2 * tables["upper"] + (1 - variance) / 2 * tables["lower"]
    kl = 0.5 * (log_p - tables["lower"] - 1 + np.exp(tables["lower"] - log_p))
    kl += 0.5 * (exact - mean) ** 2 / np.exp(log_p)
    normal = lambda z: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    high, low = (normal((data - mean + side / 255) * np.exp(-log_p / 2)) for side in (1, -1))
    inside = np.where(data > 0.999, 1 - low, np.where(data < -0.999, high, high - low))
    kl[:5] = -np.log(np.maximum(inside[:5], 1e-12))
    np.testing.assert_allclose(bound, kl.mean(-1) / np.log(2), rtol=1e-4)
    # The mean is held fast: what the bound moves is the variances alone.
    assert not np.any(jax.jit(jax.grad(lambda said: jnp.sum(run(said)[1])))(said32))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"scale=0\.0 must be positive"):
        MaskedValues(scale=0.0)
    with pytest.raises(ValueError, match="repeats=0 at least 1"):
        MaskedValues(repeats=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        MaskedValueSettings(temperature=-1.0)
    latents = Latents(values=jnp.zeros((3, 6, 3)))
    with pytest.raises(ValueError, match=r"models \[B, 6, 2\] values"):
        PRIOR.loss({}, latents, CONDITION, jax.random.key(0))
    given = Latents(values=jnp.zeros((3, 6, 2)), mask=jnp.zeros((3, 6, 2), bool))
    with pytest.raises(ValueError, match=r"must be \(3, 6, 1\), True for whole tokens"):
        PRIOR.sample({}, CONDITION, jax.random.key(0), given=given)
    with pytest.raises(ValueError, match="needs values and a mask"):
        PRIOR.sample({}, CONDITION, jax.random.key(0), given=Latents(codes=jnp.zeros((3, 6, 2), int)))
