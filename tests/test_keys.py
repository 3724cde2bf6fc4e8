import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok import keys as random


def draws(keys):
    p = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 5), (keys.shape[0], 5))
    return {
        "uniform": random.uniform(keys, (3, 2)),
        "normal": random.normal(random.fold(keys, 1), (4,)),
        "gumbel": random.gumbel(random.fold(keys, 2), ()),
        "coins": random.bernoulli(random.fold(keys, 3), p),
    }


def assert_same_draws(found, expected):
    """The random bits are the same. Normal and Gumbel numbers are functions of them that XLA's vector code
    may
    round in the last place by where a number lies in its array (seen in JAX 0.12)."""
    for name in expected:
        exact = name in ("uniform", "coins")
        np.testing.assert_allclose(found[name], expected[name], rtol=0 if exact else 1e-6, atol=0)


@pytest.fixture(scope="module")
def whole():
    keys = random.example_keys(jax.random.key(0), 8)
    return keys, jax.jit(draws)(keys)


def test_micro_batches_draw_what_the_batch_draws(whole):
    keys, batch = whole
    parts = [jax.jit(draws)(keys[start : start + 4]) for start in (0, 4)]
    assert_same_draws({name: np.concatenate([part[name] for part in parts]) for name in batch}, batch)


def test_eight_devices_draw_what_one_draws(whole):
    keys, batch = whole
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("data")))
    assert_same_draws(jax.jit(draws)(sharded), batch)


def test_rows_differ_and_certain_coins_are_certain(whole):
    _, batch = whole
    assert len(np.unique(batch["gumbel"])) == 8
    assert not batch["coins"][:, 0].any() and batch["coins"][:, -1].all() and batch["coins"].dtype == bool
    assert ((batch["uniform"] >= 0) & (batch["uniform"] < 1)).all()


def test_an_array_of_keys_passes_through_and_must_fit_the_batch():
    keys = random.example_keys(jax.random.key(1), 3)
    assert random.example_keys(keys, 3) is keys
    with pytest.raises(ValueError, match="batch of 4"):
        random.example_keys(keys, 4)


def test_folding_a_scalar_key_is_folding_each():
    key = jax.random.key(5)
    keys = random.example_keys(key, 2)
    assert random.fold(key, 3) == jax.random.fold_in(key, 3)
    assert random.fold(keys, 3)[1] == jax.random.fold_in(keys[1], 3)
