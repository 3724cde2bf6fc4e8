import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.decoding.slots import sample_slots
from jaxtok.keys import example_keys
from jaxtok.nn.slots import head_width
from tests.filled import normal

SPACES = [CodeSpace.binary(3), CodeSpace((3, 2))]
DRAWS = 8000


@pytest.mark.parametrize("space", SPACES, ids=lambda s: str(s.levels))
def test_frequencies_are_those_of_the_cooled_logits(space):
    logits = normal(head_width(space))
    keys = example_keys(jax.random.key(0), 4)
    draw = jax.jit(lambda x: sample_slots(jnp.broadcast_to(x, (4, DRAWS // 4, x.size)), space, keys, 0.5))
    codes = np.asarray(draw(logits)).reshape(DRAWS, -1)
    wide = np.asarray(logits)
    slots = [(0, o) for o in wide] if space.is_binary else np.split(wide, np.cumsum(space.levels)[:-1])
    for q, slot in enumerate(slots):
        p = np.exp(np.array(slot) / 0.5)
        p /= p.sum()
        frequency = np.bincount(codes[:, q], minlength=len(p)) / DRAWS
        assert (np.abs(frequency - p) < 4.5 * np.sqrt(p * (1 - p) / DRAWS)).all()
    # Slots of a token are independent draws.
    assert abs(np.corrcoef(codes[:, 0], codes[:, 1])[0, 1]) < 4.5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: str(s.levels))
def test_temperature_zero_takes_the_likeliest_and_the_lowest_of_equals(space):
    keys = example_keys(jax.random.key(0), 1)
    even = sample_slots(jnp.zeros((1, 2, head_width(space))), space, keys, 0.0)
    np.testing.assert_array_equal(even, 0)
    logits = normal(1, 2, head_width(space))
    codes = sample_slots(logits, space, keys, 0.0)
    if space.is_binary:
        np.testing.assert_array_equal(codes, np.asarray(logits) > 0)
    else:
        np.testing.assert_array_equal(codes[..., 0], np.asarray(logits)[..., :3].argmax(-1))


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        sample_slots(jnp.zeros((1, 3)), SPACES[0], example_keys(jax.random.key(0), 1), -1.0)
