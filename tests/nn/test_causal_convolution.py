"""Convolutions of signals: lengths, chunks, causality, and the padding of the official EnCodec."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.causal_convolution import Convolution, TransposedConvolution
from jaxtok.nn.convolve import frame_mask, pad
from tests.filled import filled, normal

STRIDED = Convolution(4, kernel=6, strides=3, causal=True)
LAYERS = {
    "zeros": (STRIDED, (13, 2)),
    "edge": (dataclasses.replace(STRIDED, padding="edge", weight_norm=True), (13, 2)),
    "reflect": (Convolution(4, kernel=3, dilation=2, causal=True, padding="reflect", groups=2), (13, 2)),
    "plane": (Convolution(3, kernel=(4, 3), strides=(2, 2), axes=2, causal=True), (9, 5, 2)),
    "volume": (Convolution(2, kernel=(3, 1, 2), strides=(2, 1, 2), axes=3, causal=True), (6, 2, 3, 1)),
    "transposed": (TransposedConvolution(3, kernel=7, strides=3, causal=True, weight_norm=True), (6, 2)),
    "transposed plane": (TransposedConvolution(2, (5, 4), (2, 2), axes=2, causal=True), (4, 3, 2)),
    "transposed volume": (TransposedConvolution(2, (3, 2, 1), (3, 2, 1), axes=3, causal=True), (3, 2, 2, 1)),
}
CHUNKS = {"zeros": (6, 3, 3), "edge": (3, 9), "reflect": (5, 8), "volume": (4, 2), "plane": (4, 2, 2)}


@pytest.fixture(scope="module", params=LAYERS)
def run(request):
    """Everything that is looked at, of one layer, compiled together."""
    layer, shape = LAYERS[request.param]
    x = normal(2, *shape)
    chunks = CHUNKS.get(request.param, (2, 1))
    read = sum(chunks)
    variables = filled(layer, x)
    carry = layer.init_carry(2, shape[1:-1], shape[-1])

    @jax.jit
    def compute(variables, x):
        state, parts, start = carry, [], 0
        for length in chunks:
            state, part = layer.apply(variables, state, x[:, start : start + length], method="chunk")
            parts.append(part)
            start += length
        return {
            "whole": layer.apply(variables, x),
            "read": layer.apply(variables, x[:, :read]),
            "chunks": jnp.concatenate(parts, axis=1),
            "carry": state,
            "changed": layer.apply(variables, x.at[:, read:].add(1.0)),
        }

    return layer, x, read, carry, compute(variables, x)


def test_lengths(run):
    layer, x, _, carry, out = run
    up = isinstance(layer, TransposedConvolution)
    strides = layer.strides if isinstance(layer.strides, tuple) else (layer.strides,) * layer.axes
    expected = [n * s if up else -(-n // s) for n, s in zip(x.shape[1:-1], strides)]
    assert out["whole"].shape == (2, *expected, layer.features)
    assert layer.output(x.shape[2:-1], x.shape[-1]) == (tuple(expected[1:]), layer.features)
    mask = layer.output_mask(jnp.ones(x.shape[:2], bool))
    assert mask.shape == out["whole"].shape[:2] and mask.all()
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, out["carry"])


def test_chunks_equal_the_whole(run):
    np.testing.assert_allclose(run[4]["chunks"], run[4]["read"], atol=1e-5)


def test_later_inputs_change_no_earlier_frame(run):
    _, x, read, _, out = run
    made = out["read"].shape[1]
    np.testing.assert_array_equal(out["changed"][:, :made], out["whole"][:, :made])
    if read < x.shape[1]:
        assert np.all(np.any(out["changed"][:, made:] != out["whole"][:, made:], axis=(0, -1)))


def test_only_time_is_causal():
    layer, x = Convolution(1, kernel=3, axes=2, causal=True), normal(1, 4, 4, 1)
    variables = jax.tree.map(jnp.abs, filled(layer, x))
    moved = jax.jacobian(lambda x: layer.apply(variables, x)[0, 2, 2, 0])(x)[0, :, :, 0]
    rows, columns = np.nonzero(np.asarray(moved))
    assert set(rows) == {0, 1, 2} and set(columns) == {1, 2, 3}


def test_a_normalised_weight_starts_as_it_is_drawn():
    x = normal(1, 5, 3)
    for kind, kernel, per in ((Convolution, 3, 0), (TransposedConvolution, 3, 1)):
        params = kind(4, kernel, weight_norm=True).init(jax.random.key(0), x)["params"]
        axes = (0, 1) if per == 0 else (0, 2)  # per output, or per input channel
        np.testing.assert_allclose(params["scale"], np.linalg.norm(params["direction"], axis=axes), rtol=1e-5)
        assert set(params) == {"scale", "direction", "bias"} and params["scale"].dtype == jnp.float32


def test_parameters_stay_float32():
    for layer in (STRIDED, LAYERS["transposed"][0]):
        layer = dataclasses.replace(layer, dtype=jnp.bfloat16)
        y, variables = jax.eval_shape(
            lambda x, m=layer: m.init_with_output(jax.random.key(0), x), normal(1, 6, 2)
        )
        assert y.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert jax.tree.leaves(layer.init_carry(1, (), 2))[0].dtype == jnp.bfloat16


def test_a_frame_is_real_if_any_of_its_samples_is():
    mask = jnp.arange(7) < jnp.asarray([7, 4, 3, 0])[:, None]
    expected = [[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(frame_mask(mask, 3), expected)


def _paddings(length, kernel, stride, dilation, causal):
    """Those of the official `SConv1d`, and how many are cut off by `SConvTranspose1d` with dilation 1."""
    total = (kernel - 1) * dilation - (stride - 1)
    after = 0 if causal else total // 2
    return total - after, after + -length % stride


SIGNALS = [  # padding, T, kernel, stride, dilation
    ("reflect", 11, 7, 1, 1),
    ("reflect", 4, 7, 1, 1),  # shorter than its padding
    ("zeros", 11, 10, 5, 1),
    ("edge", 12, 3, 1, 4),
]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode, length, kernel, stride, dilation", SIGNALS)
def test_windows_of_the_padded_signal(causal, mode, length, kernel, stride, dilation):
    layer = Convolution(3, kernel, stride, dilation, causal=causal, padding=mode)
    x = normal(2, length, 2)
    variables = filled(layer, x)
    weight, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    widths = _paddings(length, kernel, stride, dilation, causal)
    short = max(0, max(widths) - length + 1) if mode == "reflect" else 0
    padded = np.pad(x, ((0, 0), (0, short), (0, 0)))
    padded = np.pad(padded, ((0, 0), widths, (0, 0)), {"zeros": "constant"}.get(mode, mode))
    padded = padded[:, : padded.shape[1] - short]
    starts = range(0, padded.shape[1] - (kernel - 1) * dilation, stride)
    windows = np.stack([padded[:, i : i + (kernel - 1) * dilation + 1 : dilation] for i in starts], axis=1)
    expected = np.einsum("bnkc,kce->bne", windows, weight) + bias
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_every_input_adds_a_kernel(causal):
    layer, x = TransposedConvolution(3, 7, 4, causal=causal), normal(2, 5, 2)
    variables = filled(layer, x)
    weight, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    full = np.zeros((2, 4 * 4 + 7, 3))
    for t in range(5):
        full[:, 4 * t : 4 * t + 7] += np.einsum("bc,kce->bke", x[:, t], weight)
    start = 0 if causal else 2  # of 7 - 4 frames that are cut off, the larger half is before
    expected = full[:, start : start + 20] + bias
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.slow  # parity
def test_as_torch_with_its_weight_norm():
    torch = pytest.importorskip("torch")
    norm, x = torch.nn.utils.parametrizations.weight_norm, normal(2, 12, 4)
    tensor = lambda a, *order: torch.tensor(np.transpose(a, order or None).copy())
    for layer, module in (
        (Convolution(6, 6, 3, causal=True, groups=2), torch.nn.Conv1d(4, 6, 6, 3, groups=2)),
        (TransposedConvolution(6, 7, 4, causal=True), torch.nn.ConvTranspose1d(4, 6, 7, 4)),
    ):
        layer, module = dataclasses.replace(layer, weight_norm=True), norm(module)
        variables, up = filled(layer, x), isinstance(layer, TransposedConvolution)
        order = (1, 2, 0) if up else (2, 1, 0)
        params = variables["params"]
        module.load_state_dict({
            "bias": tensor(params["bias"]),
            "parametrizations.weight.original0": tensor(params["scale"])[:, None, None],
            "parametrizations.weight.original1": tensor(params["direction"], *order),
        })  # fmt: skip
        signal = tensor(x, 0, 2, 1)
        with torch.no_grad():
            y = module(signal if up else torch.nn.functional.pad(signal, (3, 0))).numpy()
        y = y[..., : 48 if up else None].transpose(0, 2, 1)
        np.testing.assert_allclose(layer.apply(variables, x), y, atol=1e-5)


def test_what_cannot_be():
    x, key = normal(1, 6, 2), jax.random.key(0)
    for layer, message in (
        (Convolution(2, 2, 3), "strides=3 leave inputs out between kernels=2"),
        (Convolution(3, 3, groups=2), "2 and 3 channels must both divide into groups=2"),
        (Convolution(2, 3, padding="wrap"), "padding='wrap'"),
        (Convolution(2, (3, 3)), r"\(3, 3\) must be a number, or 1 of them"),
        (Convolution(2, 3, axes=2), r"shape \(1, 6, 2\) for axes=2"),
        (TransposedConvolution(2, 2, 3), "kernel=2 is shorter than strides=3"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.init(key, x)
    with pytest.raises(ValueError, match="causal=False: a frame depends on inputs to come"):
        Convolution(2, 3).init(key, {}, x, method="chunk")
    with pytest.raises(ValueError, match="a chunk of 4 inputs must be a multiple of the stride 3"):
        STRIDED.init(key, STRIDED.init_carry(1, (), 2), x[:, :4], method="chunk")
    reflecting = LAYERS["reflect"][0]
    with pytest.raises(ValueError, match="a chunk of 4 inputs cannot be reflected 4 before its first"):
        reflecting.init(key, reflecting.init_carry(1, (), 2), x[:, :4], method="chunk")


def test_reflection_does_not_repeat_the_edge():
    x = jnp.arange(3.0)[None, :, None]
    np.testing.assert_array_equal(pad(x, 1, (2, 1), "reflect")[0, :, 0], [2, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(pad(x, 1, (2, 1), "edge")[0, :, 0], [0, 0, 0, 1, 2, 2])
