import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.conditioning import for_layers
from jaxtok.nn.text import ByteEncoder
from tests.filled import filled, normal


def test_padding_does_not_reach_the_text():
    encoder = ByteEncoder(2, 2, 4)
    short, wide = (tuple(map(jnp.asarray, byte_ids(["ab", "abcd"], length))) for length in (4, 6))
    variables = filled(encoder, *short)
    run = jax.jit(encoder.apply)
    a, b = run(variables, *short), run(variables, *wide)
    assert a.shape == (2, 2, 4, 8) and a.dtype == jnp.float32
    np.testing.assert_allclose(a[:, 0, :2], b[:, 0, :2], atol=1e-5)
    np.testing.assert_allclose(a[:, 1], b[:, 1, :4], atol=1e-5)
    # Order matters: the rotary positions are there.
    swapped = run(variables, short[0][:, [1, 0, 2, 3]], short[1])
    assert np.abs(np.asarray(swapped)[:, 0, [1, 0]] - a[:, 0, :2]).max() > 1e-3


def test_encoders_of_any_depth_feed_priors_of_any_depth():
    features = normal(2, 1, 1, 1)
    assert for_layers(features, 2) is features
    np.testing.assert_array_equal(for_layers(features, 4), np.asarray(features)[[0, 0, 1, 1]])
    np.testing.assert_array_equal(for_layers(features, 1), np.asarray(features)[:1])
