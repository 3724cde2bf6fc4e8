"""Finite scalar quantization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.codes import CodeSpace
from jaxtok.quantize.fsq import FSQ, jitter, lattice, quantize_levels
from jaxtok.quantize.health import health
from tests.filled import filled, normal
from tests.quantize.golden import cases
from tests.quantize.masks import Z, check_masked_tokens

BOUNDS = ("tanh", "clip")


def apply(module, *args, **kwargs):
    """What a module without variables returns, in one compilation."""
    return jax.jit(functools.partial(module.apply, **kwargs))({}, *args)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bound", BOUNDS)
def test_all_levels_are_reached_in_order(symmetric, bound):
    levels = (*range(2 if symmetric else 3, 18), 64, 255, 1000)
    z = np.tile(np.linspace(-6.0, 6.0, 24001, dtype=np.float32)[:, None], len(levels))
    z = np.concatenate([z, np.full((1, len(levels)), np.inf, np.float32)])

    @jax.jit
    def run(z):
        codes, values = quantize_levels(z, levels, symmetric, bound)
        return codes, values, lattice(codes, levels, symmetric)

    codes, values, points = jax.device_get(run(z))
    np.testing.assert_array_equal(points, values)
    far, codes, values = codes[-1], codes[:-1], values[:-1]
    for slot, n in enumerate(levels):
        np.testing.assert_array_equal(np.unique(codes[:, slot]), np.arange(n), err_msg=f"{n} levels")
        assert np.all(np.diff(codes[:, slot]) >= 0)
    assert np.all(np.abs(values) <= 1 + 1e-6)
    # Infinite features are no way out of the alphabet.
    np.testing.assert_array_equal(far, np.asarray(levels) - 1)


@settings(max_examples=5)
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), groups=st.integers(1, 2))
def test_every_code_comes_back(levels, groups):
    """Values between the decision boundaries of a code go back to it."""
    module = FSQ(tuple(levels), groups=groups, symmetric=True, bound="clip")
    space = CodeSpace(tuple(levels))
    codes = jnp.asarray(np.tile(space.split(np.arange(space.size)), (1, groups)))[None]

    @jax.jit
    def run(codes):
        values = module.apply({}, codes, method="decode")
        return values, module.apply({}, values)

    values, out = run(codes)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.values, values)
    assert np.all(out.statistics["counts"] == 1)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4, 6, 2), (2, 2)])
def test_the_values_of_a_lattice(levels):
    n = np.asarray(levels)
    codes = CodeSpace(levels).split(np.arange(CodeSpace(levels).size))
    run = jax.jit(lambda codes: (lattice(codes, levels, True), lattice(codes, levels, False)))
    symmetric, other = jax.device_get(run(codes))
    np.testing.assert_allclose(symmetric, 2 * codes / (n - 1) - 1, atol=1e-6)
    np.testing.assert_allclose(symmetric, -symmetric[::-1], atol=1e-6)
    np.testing.assert_allclose(other, codes / (n // 2) - 1, atol=1e-6)


def test_symmetric_levels_are_symmetric():
    levels = (2, 3, 4, 5, 8, 9, 16, 17)
    z = normal(50, 8, seed=3)
    run = jax.jit(lambda z: quantize_levels(z, levels, True))
    (codes, values), (mirrored, negative) = jax.device_get((run(z), run(-z)))
    np.testing.assert_array_equal(mirrored, np.asarray(levels) - 1 - codes)
    np.testing.assert_allclose(negative, -values, atol=1e-6)


@pytest.mark.parametrize("symmetric, bound", [(s, b) for s in (False, True) for b in BOUNDS])
def test_gradients_are_those_of_the_bounded_input(symmetric, bound):
    levels = (8, 5, 4, 3)
    n, z = np.asarray(levels, np.float64), np.asarray(0.7 * normal(20, 4, seed=4), np.float64)
    total = lambda z: jnp.sum(quantize_levels(z, levels, symmetric, bound)[1])
    gradient = jax.jit(jax.grad(total))(jnp.asarray(z, jnp.float32))
    half = (n - 1) * 1.001 / 2
    shift = np.zeros(4) if symmetric else np.arctanh((n % 2 == 0) / 2 / half)
    slope = 1 - np.tanh(z + shift) ** 2 if bound == "tanh" else (np.abs(z + shift) < 1)
    np.testing.assert_allclose(gradient, slope * (1.0 if symmetric else half / (n // 2)), atol=1e-5)


def test_noise_moves_only_chosen_values_inside_the_range():
    values = jnp.asarray([-1.0, -0.5, 0.0, 0.25, 1.0])
    uniforms = jnp.asarray([0.0, 0.0, 0.9, 0.75, 0.75])
    moved = jnp.asarray([True, False, True, True, True])
    np.testing.assert_allclose(jitter(values, uniforms, moved), [-1.0, -0.5, 0.4, 0.5, 1.0], atol=1e-6)


def test_noise_belongs_to_the_example_and_to_training():
    module = FSQ((8, 6, 5, 4), groups=2, noise=0.5)
    key = jax.random.key(1)

    @jax.jit
    def run(z, keys):
        loud = module.apply({}, z, train=True, key=key)
        one = lambda row: module.apply({}, row[0][None], train=True, key=row[1][None]).values[0]
        quiet = module.apply({}, z), module.apply({}, z, key=key)
        return loud, *quiet, jax.lax.map(one, (z, keys))

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    loud, quiet, with_key, parts = jax.device_get(run(Z, keys))
    np.testing.assert_array_equal(quiet.codes, loud.codes)
    changed = np.mean(quiet.values != loud.values)
    assert 0.3 < changed < 0.7 and np.max(np.abs(quiet.values - loud.values)) <= 0.5
    np.testing.assert_array_equal(with_key.values, quiet.values)
    np.testing.assert_array_equal(parts, loud.values)


VARIANTS = {
    "plain": FSQ((8, 5, 4, 3), groups=2),
    "projected": FSQ((8, 5, 5), width=8),
    "always": FSQ((4,) * 8, project="always", projection_bias=False, bound="clip", symmetric=True),
    "rotated": FSQ((5,) * 8, rotated=True),
}


@pytest.mark.parametrize("name", cases(VARIANTS, ["plain", "projected"]))
def test_masked_tokens_have_no_effect(name):
    check_masked_tokens(VARIANTS[name])


def test_tokens_are_counted_jointly_or_by_slot():
    joint = apply(FSQ((8, 5, 4, 3), groups=2), Z).statistics
    assert joint["counts"].shape == (2, 480) and joint["counts"].sum() == 48
    by_slot = apply(FSQ((32, 16, 16, 16), groups=2), Z).statistics
    assert [by_slot[f"slot_{i}"]["counts"].shape for i in range(8)] == [(32,), (16,), (16,), (16,)] * 2
    for i in range(8):
        assert by_slot[f"slot_{i}"]["counts"].sum() == 24
    assert 0 < jax.jit(health)(joint)["bits_per_token"] <= 2 * np.log2(480)
    assert 0 < jax.jit(health)(by_slot)["bits_per_token"] <= 34


def test_too_few_levels_are_refused():
    for levels, symmetric in (((8, 2), False), ((1, 3), True)):
        with pytest.raises(ValueError, match="levels="):
            FSQ(levels, symmetric=symmetric).init(jax.random.key(0), jnp.zeros((1, 1, 2)))


def test_a_step_on_eight_devices_is_the_step_on_one():
    module, z = VARIANTS["projected"], normal(8, 6, 8)
    params = filled(module, z)["params"]

    def step(params, z):
        def loss(params, z):
            out = module.apply({"params": params}, z, train=True)
            return jnp.sum(jnp.sin(out.values)), out.statistics

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, z)

    alone = jax.jit(step)(params, z)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        together = jax.jit(step)(params, jax.device_put(z, rows))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), together, alone)
