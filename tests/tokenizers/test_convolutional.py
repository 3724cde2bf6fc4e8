"""Convolutional encoders and decoders: chunks, lengths, masks, sizes of the published networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.tokenizers.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, ConvolutionalShape
from jaxtok.tokenizers.convolutional_layers import Activation
from tests.filled import filled, normal

SHAPE = ConvolutionalShape((4, 6, 8), (2, 3), features=5, channels=2, window=5, latent_window=3)
SNAKE = {"activation": "snake", "shortcut": "identity", "weight_norm": True, "compress": 1, "tanh": True}
SHAPES = {
    "dilated": (dataclasses.replace(SHAPE, strides=(3,), widths=(4, 6), dilations=(1, 3)), (10,)),
    "edge": (dataclasses.replace(SHAPE, padding="edge", **SNAKE), (13,)),
    "plane": (dataclasses.replace(SHAPE, strides=(2, (3, 1)), axes=2), (13, 5)),
    "volume": (dataclasses.replace(SHAPE, strides=((2, 2, 1),), widths=(4, 6), axes=3), (5, 4, 3)),
    "centred": (dataclasses.replace(SHAPE, causal=False, dilations=(2,)), (13,)),
}


@pytest.fixture(scope="module", params=SHAPES)
def run(request):
    """Everything that is looked at, of one shape, compiled together."""
    shape, size = SHAPES[request.param]
    encoder, decoder = ConvolutionalEncoder(shape), ConvolutionalDecoder(shape)
    x = normal(2, *size, shape.channels)
    variables = filled(encoder, x)
    features = jax.eval_shape(encoder.apply, variables, x)
    back = filled(decoder, jnp.zeros(features.shape), seed=1)
    kept = size[0] - 4
    mask = jnp.arange(size[0]) < jnp.asarray([size[0], kept])[:, None]
    hop, frames = encoder.hop, size[0] // encoder.hop

    @jax.jit
    def compute(variables, back, x):
        z = encoder.apply(variables, x)
        poisoned = jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.nan)
        found = encoder.apply(variables, poisoned, mask)
        real = encoder.frame_mask(mask)
        alone = encoder.apply(variables, x[1:, :kept])
        out = {
            "features": z,
            "signal": decoder.apply(back, z),
            "masked": found,
            "real": real,
            "alone": alone,
            "masked signal": decoder.apply(back, jnp.where(found == 0, jnp.nan, found), real),
            "signal alone": decoder.apply(back, alone),
        }
        if shape.causal:
            carry, parts = encoder.init_carry(2, size[1:]), []
            again, signals = decoder.init_carry(2, encoder.grid(size)[1:]), []
            for i in range(frames):
                chunk = x[:, i * hop : (i + 1) * hop]
                carry, part = encoder.apply(variables, carry, chunk, method="encode_chunk")
                again, signal = decoder.apply(back, again, part, method="decode_chunk")
                parts, signals = [*parts, part], [*signals, signal]
            out |= {"chunks": jnp.concatenate(parts, 1), "signals": jnp.concatenate(signals, 1)}
        return out

    return shape, size, jax.device_get(compute(variables, back, x))


def test_lengths(run):
    shape, size, out = run
    encoder = ConvolutionalEncoder(shape)
    grid = encoder.grid(size)
    assert grid[0] == encoder.frames(size[0]) == -(-size[0] // encoder.hop)
    assert out["features"].shape == (2, *grid, shape.features)
    lengths = [n * hop for n, hop in zip(grid, shape.hops)]
    assert out["signal"].shape == (2, *lengths, shape.channels) and out["signal"].dtype == np.float32
    assert not shape.tanh or np.abs(out["signal"]).max() <= 1


def test_chunks_equal_the_whole(run):
    shape, size, out = run
    assert ("chunks" in out) == shape.causal
    if not shape.causal:
        return
    frames = size[0] // shape.hops[0]
    assert frames > 1
    np.testing.assert_allclose(out["chunks"], out["features"][:, :frames], atol=1e-5)
    np.testing.assert_allclose(out["signals"], out["signal"][:, : frames * shape.hops[0]], atol=1e-5)


def test_padding_has_no_effect(run):
    shape, _, out = run
    frames = out["alone"].shape[1]
    np.testing.assert_array_equal(out["real"].sum(axis=1), [out["features"].shape[1], frames])
    assert np.isfinite(out["masked"]).all() and np.isfinite(out["masked signal"]).all()
    np.testing.assert_array_equal(out["masked"][1, frames:], 0)
    np.testing.assert_array_equal(out["masked signal"][1, frames * shape.hops[0] :], 0)
    np.testing.assert_allclose(out["masked"][0], out["features"][0], atol=1e-5)
    if shape.padding == "zeros":  # a signal among longer ones is what it is alone
        np.testing.assert_allclose(out["masked"][1, :frames], out["alone"][0], atol=1e-5)
        made = out["signal alone"].shape[1]
        np.testing.assert_allclose(out["masked signal"][1, :made], out["signal alone"][0], atol=1e-5)


def _count(module, *shape):
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_published_sizes():
    """As many parameters as the written-out modules of EnCodec (less its LSTMs) and DAC at 44 kHz have."""
    conv = lambda a, b, k: a * b * k + b
    norm = lambda a, b, k, up=False: conv(a, b, k) + (a if up else b)
    encodec = ConvolutionalShape(weight_norm=True, padding="reflect")
    unit = lambda c: norm(c, c // 2, 3) + norm(c // 2, c, 1) + norm(c, c, 1)
    ends = norm(1, 32, 7) + norm(512, 128, 7)
    stages = sum(unit(c) + norm(c, 2 * c, 2 * r) for c, r in zip((32, 64, 128, 256), (2, 4, 5, 8)))
    assert _count(ConvolutionalEncoder(encodec), 1, 640, 1) == ends + stages
    ends = norm(128, 512, 7) + norm(32, 1, 7)
    stages = sum(unit(c) + norm(2 * c, c, 2 * r, up=True) for c, r in zip((32, 64, 128, 256), (2, 4, 5, 8)))
    assert _count(ConvolutionalDecoder(encodec), 1, 2, 128) == ends + stages
    dac = ConvolutionalShape(
        (64, 128, 256, 512, 1024),
        (2, 4, 8, 8),
        features=1024,
        dilations=(1, 3, 9),
        latent_window=3,
        unit_window=7,
        compress=1,
        shortcut="identity",
        activation="snake",
        causal=False,
        weight_norm=True,
    )
    assert dac.hops == (512,) and ConvolutionalShape((4,), (), axes=2).hops == (1, 1)
    unit = lambda c: 2 * c + norm(c, c, 7) + norm(c, c, 1)
    stages = [3 * unit(c) + c + norm(c, 2 * c, 2 * r) for c, r in zip((64, 128, 256, 512), (2, 4, 8, 8))]
    expected = norm(1, 64, 7) + sum(stages) + 1024 + norm(1024, 1024, 3)
    assert _count(ConvolutionalEncoder(dac), 1, 1024, 1) == expected


def test_snake():
    x = normal(1, 4, 3)
    alpha = jnp.asarray([0.5, 1.0, 2.0])
    y = Activation("snake").apply({"params": {"alpha": alpha}}, x)
    np.testing.assert_allclose(y, x + np.sin(np.asarray(alpha) * x) ** 2 / np.asarray(alpha), atol=1e-6)
    with pytest.raises(ValueError, match="activation='gelu'"):
        Activation("gelu").init(jax.random.key(0), x)


def test_features_may_be_bfloat16_and_signals_are_float32():
    shape = dataclasses.replace(SHAPE, activation="snake")
    encoder, decoder = (kind(shape, jnp.bfloat16) for kind in (ConvolutionalEncoder, ConvolutionalDecoder))
    init = lambda m, x: jax.eval_shape(lambda: m.init_with_output(jax.random.key(0), x)[0])
    assert init(encoder, jnp.zeros((1, 12, 2))).dtype == jnp.bfloat16
    assert init(decoder, jnp.zeros((1, 2, 5))).dtype == jnp.float32


def test_what_cannot_be():
    for change, message in (
        ({"widths": (4, 6)}, r"widths=\(4, 6\) must be one more than strides=\(2, 3\)"),
        ({"widths": (4, 5, 8)}, r"widths \[5\] do not divide by compress=2"),
        ({"strides": (2, (3, 3))}, r"\(3, 3\) must be a number, or 1 of them"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SHAPE, **change)
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 8\) for inputs \(1, 9, 2\)"):
        ConvolutionalEncoder(SHAPE).init(jax.random.key(0), jnp.zeros((1, 9, 2)), jnp.ones((1, 8), bool))
