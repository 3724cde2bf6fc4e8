import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.cache import KVCache


@pytest.fixture
def cache():
    """Two rows, two context entries (the first row's first is padding), room for four tokens."""
    keys = jnp.zeros((1, 2, 1, 6, 1)).at[0, :, 0, :2, 0].set(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]))
    mask = jnp.array([[False, True], [True, True]])
    return KVCache(keys, keys, mask, jnp.zeros(2, jnp.int32))


def tokens(cache):
    return np.asarray(cache.keys)[0, :, 0, cache.context :, 0]


def new(*rows):
    x = jnp.array(rows, jnp.float32)[None, :, :, None, None]
    return x, 10 * x


def test_tokens_are_appended_behind_each_row_s_own(cache):
    cache = cache.append(*new([1, 2], [5, 6]))
    cache = KVCache(
        cache.keys, cache.values, cache.context_mask, jnp.array([1, 2])
    )  # the first row takes one back
    cache = cache.append(*new([3], [7]))
    assert cache.capacity == 4 and cache.length.tolist() == [2, 3]
    np.testing.assert_array_equal(tokens(cache)[:, :3], [[1, 3, 0], [5, 6, 7]])
    np.testing.assert_array_equal(cache.values[:, :, :, 2:], 10 * cache.keys[:, :, :, 2:])
    np.testing.assert_array_equal(cache.keys[0, :, 0, :2, 0], [[-1, -2], [-3, -4]])


def test_more_tokens_than_room_are_refused(cache):
    with pytest.raises(ValueError, match="5 tokens do not fit a cache of capacity 4"):
        cache.append(*new([1] * 5, [2] * 5))


def test_new_tokens_see_context_filled_tokens_and_those_before_them(cache):
    cache = cache.append(*new([1], [5]))
    visible = cache.visible(2)[:, 0].astype(int)
    own = [[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(visible, [[[0, 1, *row] for row in own], [[1, 1, *row] for row in own]])


def test_a_mask_of_the_caller_never_shows_what_is_not_there(cache):
    cache = cache.append(*new([1], [5]))
    everything = cache.visible(2, jnp.ones((2, 2, 6), bool))[0, 0].astype(int)
    np.testing.assert_array_equal(everything, [[0, 1, 1, 0, 0, 0, 1, 1]] * 2)
    itself = jnp.zeros((2, 2, 6), bool).at[:, jnp.arange(2), 4 + jnp.arange(2)].set(True)
    np.testing.assert_array_equal(cache.visible(2, itself)[0, 0, :, 2:].astype(int), itself[0].astype(int))


def test_a_grown_cache_holds_the_same_tokens(cache):
    cache = cache.append(*new([1, 2], [5, 6]))
    grown = cache.grown(7)
    assert grown.capacity == 7 and grown.length.tolist() == [2, 2]
    np.testing.assert_array_equal(grown.keys[:, :, :, :6], cache.keys)
    np.testing.assert_array_equal(tokens(grown.append(*new([3], [7])))[:, 2], [3, 7])
    with pytest.raises(ValueError, match=r"capacity=3 is less than the cache has \(4\); cut tokens with"):
        cache.grown(3)


def test_keep_reorders_and_cuts(cache):
    cache = cache.append(*new([1, 2, 3], [5, 6, 7]))
    kept = cache.keep(jnp.array([[2, 0], [1, 0]]), jnp.array([2, 1]))
    np.testing.assert_array_equal(tokens(kept)[:, :2], [[3, 1], [6, 5]])
    assert kept.length.tolist() == [2, 1] and kept.visible(1)[1, 0, 0, 2:].astype(int).tolist() == [
        1,
        0,
        0,
        0,
        1,
    ]
    # The next token overwrites what was cut off.
    np.testing.assert_array_equal(tokens(kept.append(*new([4], [8])))[:, :3], [[3, 1, 4], [6, 8, 7]])
    assert cache.keep(jnp.array([[0], [0]])).length.tolist() == [1, 1]
