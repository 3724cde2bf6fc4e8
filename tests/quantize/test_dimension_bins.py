import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.dimension_bins import DimensionBins, normal_bins
from jaxtok.weights import read_tensors
from tests.filled import normal
from tests.quantize.golden import close

SETTINGS = ["b1_-5_5_3", "b3_-5_5_3", "b4_-5_5_3", "b6_-5_5_3", "b8_-5_5_3", "b4_-3_3_2.5", "b6_-3_3_1.8"]


@pytest.fixture(scope="module")
def recorded(shared):
    tensors, metadata = read_tensors(shared("goldens/tokenbridge_quantizer.safetensors"))
    return tensors, {s["key"]: s for s in json.loads(metadata["config"])["settings"]}


@pytest.mark.parametrize("table", ["our table", "theirs"])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_does_what_the_official_function_does(recorded, name, table):
    tensors, settings = recorded
    s = settings[name]
    tokens = lambda x: np.moveaxis(x, 1, -1).reshape(3, 16, 16)
    quantizer = DimensionBins(2 ** s["bits"], 16, s["min"], s["max"], s["std_range"])
    z = jnp.asarray(tokens(tensors["io.latents"]))

    @jax.jit
    def run(z):
        state = quantizer.init(jax.random.key(0), z)["quantizer"]
        if table == "theirs":
            state = {**state, "values": jnp.asarray(tensors[f"io.{name}.reconstruction_values"])}
        return quantizer.apply({"quantizer": state}, z)

    out = jax.device_get(run(z))
    np.testing.assert_array_equal(out.codes, tokens(tensors[f"io.{name}.indices"]))
    # Their table has the rounding of float32 over the probability of a bin.
    atol = 1e-5 if table == "theirs" else 2e-7 * 2 ** s["bits"] + 1e-6
    close(out.values, tokens(tensors[f"io.{name}.values"]), atol=atol)
    boundaries, _ = normal_bins(2 ** s["bits"], s["std_range"])
    close(boundaries, tensors[f"io.{name}.boundaries"])


@pytest.mark.parametrize("levels", [2, 5, 64])
def test_bins_are_equally_likely_and_values_are_their_means(levels):
    boundaries, values = normal_bins(levels, 8.0)
    assert (np.diff(boundaries) > 0).all()
    np.testing.assert_allclose(values, -values[::-1], atol=1e-6)
    x = np.random.default_rng(0).standard_normal(200_000)
    bins = np.clip(np.searchsorted(boundaries, x) - 1, 0, levels - 1)
    np.testing.assert_allclose(np.bincount(bins, minlength=levels) * levels / len(x), 1, atol=0.1)
    means = np.bincount(bins, x, levels) / np.bincount(bins, minlength=levels)
    np.testing.assert_allclose(values, means, atol=0.05)


def test_a_fit_makes_codes_of_shifted_channels_nearly_equally_likely():
    quantizer = DimensionBins(levels=8, width=3)
    scale, offset = jnp.array([0.1, 1.0, 20.0]), jnp.array([3.0, 0.0, -50.0])
    z = normal(8, 512, 3) * scale + offset
    mask = jnp.arange(512) < 500
    mask = jnp.broadcast_to(mask, (8, 512))

    @jax.jit
    def run(z, mask):
        state = quantizer.init(jax.random.key(0), z)["quantizer"]
        state = quantizer.initialise(state, jnp.where(mask[..., None], z, 1e6), jax.random.key(0), mask)
        return state, quantizer.apply({"quantizer": state}, z, mask=mask)

    state, out = jax.device_get(run(z, mask))
    np.testing.assert_allclose(state["scale"], scale, rtol=0.05)
    np.testing.assert_allclose(state["offset"], offset, atol=1)
    for channel in range(3):
        counts = np.bincount(out.codes[:, :500, channel].ravel(), minlength=8)
        np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.35)
    error = np.mean(np.square((out.values - z)[:, :500] / scale))
    assert error < 0.06  # the optimum for 8 levels is 0.0345


def test_values_are_fixed_points_and_all_codes_are_reached():
    quantizer = DimensionBins(levels=16, width=2)
    codes = jnp.stack([jnp.arange(16), jnp.arange(16)[::-1]], -1)[None]

    @jax.jit
    def run(codes):
        variables = quantizer.init(jax.random.key(0), jnp.zeros((1, 1, 2)))
        values = quantizer.apply(variables, codes, method="decode")
        return quantizer.apply(variables, values, method="encode")

    np.testing.assert_array_equal(run(codes), codes)


def test_more_bits_are_more_exact():
    z, errors = normal(4, 64, 2), []
    for bits in range(1, 8):
        quantizer = DimensionBins(levels=2**bits, width=2, low=-3.0, high=3.0)
        run = jax.jit(lambda z, q=quantizer: q.init_with_output(jax.random.key(0), z)[0].values)
        errors.append(np.mean(np.square(run(z) - np.asarray(z))))
    assert errors == sorted(errors, reverse=True)


def test_gradients_pass_straight_through():
    quantizer, z = DimensionBins(levels=8, width=2), normal(1, 4, 2)
    variables = jax.jit(quantizer.init)(jax.random.key(0), z)
    weights = normal(1, 4, 2, seed=1)
    gradient = jax.jit(jax.grad(lambda z: jnp.vdot(quantizer.apply(variables, z).values, weights)))
    close(gradient(z), np.asarray(weights))


def test_settings_without_bins_are_refused():
    with pytest.raises(ValueError, match="levels=1"):
        DimensionBins(levels=1, width=2).init(jax.random.key(0), normal(1, 1, 2))
