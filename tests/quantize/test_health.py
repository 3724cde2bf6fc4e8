import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.health import health


def test_even_use_is_as_good_as_it_gets():
    found = health({"counts": jnp.full((2, 8), 3.0)})
    assert found["usage"] == 1 and found["dead_codes"] == 0
    assert found["perplexity"] == pytest.approx(8, abs=1e-4)
    assert found["bits_per_token"] == pytest.approx(6, abs=1e-4)  # two slots of three bits


def test_a_stack_adds_bits_and_dead_codes_and_averages_the_rest():
    one, other = jnp.asarray([4.0, 0, 0, 0]), jnp.asarray([1.0, 1, 1, 1])
    found = health({"quantizers_0": {"counts": one}, "quantizers_1": {"counts": other}})
    assert found["usage"] == pytest.approx((1 / 4 + 1) / 2) and found["dead_codes"] == 3
    assert found["bits_per_token"] == pytest.approx(2, abs=1e-5)


def test_nothing_counted_is_nothing_and_not_nan():
    assert all(np.isfinite(value) for value in health({"counts": jnp.zeros(4)}).values())
    assert health({"something": jnp.zeros(3)}) == {}
