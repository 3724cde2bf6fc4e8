import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.tokenizers.nested_dropout import kept_tokens, prefix_lengths, prefix_mask

UNIFORMS = (np.arange(8000) + 0.5) / 8000  # quantiles: shares are those of the distribution


def shares(mode, tokens):
    kept, counts = np.unique(kept_tokens(jnp.asarray(UNIFORMS), tokens, mode), return_counts=True)
    return dict(zip(kept.tolist(), counts / len(UNIFORMS)))


def test_each_mode_keeps_what_it_says():
    assert shares("none", 8) == {8: 1.0}
    for mode, expected in (
        ("uniform", dict.fromkeys(range(1, 9), 1 / 8)),
        ("pow2", dict.fromkeys((1, 2, 4, 8), 1 / 4)),
        ("uniform_pow2", {1: 1 / 8, 2: 1 / 8, 4: 2 / 8, 8: 4 / 8}),
    ):
        found = shares(mode, 8)
        assert found.keys() == expected.keys(), mode
        np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-3, err_msg=mode)
    with pytest.raises(ValueError, match="'nested'; choose 'none'"):
        kept_tokens(jnp.zeros(1), 8, "nested")


@pytest.mark.parametrize("mode", ["uniform", "pow2", "uniform_pow2"])
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 256])
def test_at_least_one_and_at_most_all_are_kept(tokens, mode):
    ends = kept_tokens(jnp.asarray([0.0, np.nextafter(np.float32(1), np.float32(0))]), tokens, mode)
    assert ends.tolist() == [1, tokens]
    lengths = prefix_lengths(tokens)
    assert lengths[0] == 1 and lengths[-1] == tokens and list(lengths) == sorted(set(lengths))
    if mode != "uniform":
        kept = kept_tokens(jnp.asarray(UNIFORMS[::20]), tokens, mode)
        assert set(kept.tolist()) <= set(lengths)


def test_a_prefix_is_the_first_tokens():
    expected = [[True, False, False], [True, True, True]]
    np.testing.assert_array_equal(prefix_mask(jnp.asarray([1, 3]), 3), expected)
    np.testing.assert_array_equal(prefix_mask(2, 3), [[True, True, False]])
