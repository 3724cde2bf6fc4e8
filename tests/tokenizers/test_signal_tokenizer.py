"""Tokenizers of signals: whole and in chunks, with lengths, with several quantizers and axes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import NO_CODE, Latents
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.gaussian import GaussianBottleneck
from jaxtok.quantize.residual import residual_vq
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.tokenizers.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, ConvolutionalShape
from jaxtok.tokenizers.signal_tokenizer import SignalTokenizer
from tests.filled import filled, normal

SHAPE = ConvolutionalShape((4, 6), (3,), features=4, window=3, latent_window=3)


def make(quantizer, axes=1, size=(), **change):
    shape = dataclasses.replace(SHAPE, axes=axes, **change)
    return SignalTokenizer(ConvolutionalEncoder(shape), quantizer, ConvolutionalDecoder(shape), size)


CASES = {
    "rvq": (make(residual_vq(3, 16, 4, learning="ema")), (11,)),
    "vq plane": (make(VectorQuantizer(16, 4, learning="ema"), 2, (7, 5), strides=((3, 2),)), (7, 5)),
    "fsq volume": (make(FSQ((5, 5, 4), width=4), 3, (7, 2, 3), strides=((3, 1, 2),)), (7, 2, 3)),
}
KEPT = 4  # real samples of the second signal


@pytest.fixture(scope="module", params=CASES)
def run(request):
    """Everything that is looked at, of one tokenizer, compiled together."""
    model, size = CASES[request.param]
    x = normal(2, *size, 1)
    variables = filled(model, x)
    mask = jnp.arange(size[0]) < jnp.asarray([size[0], KEPT])[:, None]
    poisoned = jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.nan)

    @jax.jit
    def compute(variables, x):
        apply = lambda *args, **kwargs: model.apply(variables, *args, **kwargs)
        latents = apply(x, method="encode")
        masked = apply(poisoned, mask, method="encode")
        carry, parts, signals = model.init_carry(2), [], []
        for start in (0, 3):
            carry, part = apply(carry, x[:, start : start + 3], method="encode_chunk")
            carry, signal = apply(carry, part.codes, method="decode_chunk")
            parts, signals = [*parts, part], [*signals, signal]
        return {
            "latents": latents,
            "out": apply(x, train=True, key=jax.random.key(1)),
            "decoded": apply(latents, size, method="decode"),
            "embedded": apply(latents.codes, method="embed"),
            "chunks": jnp.concatenate([part.codes for part in parts], 1),
            "signals": jnp.concatenate(signals, 1),
            "masked": masked,
            "masked out": apply(poisoned, mask=mask, train=True, key=jax.random.key(1)),
            "masked decoded": apply(masked, size, method="decode"),
            "alone": apply(x[1:, :KEPT]),
            "poisoned": apply(x.at[:, -1].set(jnp.nan), method="encode"),
        }

    return model, x, mask, jax.device_get(compute(variables, x)), variables


def test_shapes(run):
    model, x, _, out, _ = run
    latents = out["latents"]
    tokens = int(np.prod(model.encoder.grid(x.shape[1:-1])))
    assert latents.codes.shape == (2, tokens, model.space.slots) and latents.codes.dtype == np.int32
    assert latents.values.shape == (2, tokens, 4) and latents.mask is None
    assert (latents.codes >= 0).all() and (latents.codes < np.asarray(model.space.levels)).all()
    assert out["out"].x_hat.shape == x.shape
    assert not model.size or (model.tokens == tokens == model.layout.tokens)


def test_what_is_decoded_is_what_the_forward_pass_reconstructs(run):
    out = run[3]
    np.testing.assert_array_equal(out["out"].quantized.codes, out["latents"].codes)
    np.testing.assert_allclose(out["decoded"], out["out"].x_hat, atol=1e-5)
    np.testing.assert_allclose(out["embedded"], out["latents"].values, atol=1e-6)


def test_chunks_equal_the_whole(run):
    model, _, _, out, _ = run
    tokens = out["chunks"].shape[1]
    np.testing.assert_array_equal(out["chunks"], out["latents"].codes[:, :tokens])
    assert out["signals"].shape[1] == 2 * model.encoder.hop
    # The whole signal's last frame is not among the chunks; no sample of the first ones depends on it.
    np.testing.assert_allclose(out["signals"], out["decoded"][:, : 2 * model.encoder.hop], atol=1e-5)


def test_padding_has_no_effect(run):
    out = run[3]
    latents, alone = out["masked"], out["alone"]
    tokens = alone.quantized.codes.shape[1]
    np.testing.assert_array_equal(latents.mask[1].all(-1).sum(), tokens)
    assert latents.mask.shape == latents.codes.shape and latents.mask[0].all()
    np.testing.assert_array_equal(latents.codes[0], out["latents"].codes[0])
    np.testing.assert_array_equal(latents.codes[1, :tokens], alone.quantized.codes[0])
    np.testing.assert_array_equal(latents.codes[1, tokens:], 0)
    np.testing.assert_array_equal(latents.values[1, tokens:], 0)
    x_hat = out["masked out"].x_hat
    np.testing.assert_array_equal(x_hat[1, KEPT:], 0)
    np.testing.assert_allclose(x_hat[1, :KEPT], alone.x_hat[0], atol=1e-5)
    np.testing.assert_allclose(out["masked decoded"][1, :KEPT], alone.x_hat[0], atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out["masked out"]))
    counts = jax.tree.leaves(out["masked out"].quantized.statistics)
    assert counts and counts[0].sum() == latents.mask.any(-1).sum()  # padding is counted nowhere


def test_what_is_not_finite_has_no_code(run):
    model, _, _, out, _ = run
    latents, cells = out["poisoned"], int(np.prod(model.encoder.grid(run[1].shape[1:-1])[1:]))
    assert (latents.codes[:, -cells:] == NO_CODE).all() and np.isnan(latents.values[:, -cells:]).all()
    np.testing.assert_array_equal(latents.codes[:, :-cells], out["latents"].codes[:, :-cells])


def test_the_quantizer_is_updated_and_initialised():
    model, size = CASES["rvq"]
    x = normal(4, *size, 1)
    variables = filled(model, x)
    mask = jnp.arange(size[0]) < jnp.asarray([size[0], 3, 6, 9])[:, None]

    @jax.jit
    def compute(x):
        out = model.apply(variables, x, train=True, key=jax.random.key(1), mask=mask)
        state = variables["quantizer"]
        fitted = model.apply(variables, state, x, jax.random.key(2), mask, method="initialise_quantizer")
        return model.update_quantizer(state, out.quantized.statistics, jax.random.key(3)), fitted

    plain, poisoned = compute(x), compute(jnp.where(mask[..., None], x, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, plain, poisoned)
    before = variables["quantizer"]
    for new in plain:
        assert jax.tree.structure(new) == jax.tree.structure(before)
        assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(before)))
    assert model.update_quantizer({}, {}, jax.random.key(0)) == {}
    with pytest.raises(ValueError, match="FSQ has no codebook that k-means could initialise"):
        CASES["fsq volume"][0].apply({}, {}, x, jax.random.key(0), method="initialise_quantizer")


def test_continuous_latents():
    model = make(GaussianBottleneck(2))
    model = model.clone(decoder=ConvolutionalDecoder(dataclasses.replace(SHAPE, features=2)))
    x = normal(2, 7, 1)
    variables = filled(model, x)
    mask = jnp.arange(7) < jnp.asarray([7, 3])[:, None]
    latents = jax.jit(lambda v: model.apply(v, x, mask, method="encode"))(variables)
    assert latents.codes is None and latents.values.shape == (2, 3, 2) and latents.mask.shape == (2, 3, 1)
    np.testing.assert_array_equal(latents.values[1, 1:], 0)
    decode = lambda v: model.apply(v, latents, 7, method="decode")
    assert jax.eval_shape(decode, variables).shape == (2, 7, 1)


def test_what_cannot_be():
    model, plane = CASES["rvq"][0], CASES["vq plane"][0].clone(size=())
    variables, codes = filled(model, normal(1, 6, 1)), jnp.zeros((1, 2, 3), jnp.int32)
    decode = lambda *args: jax.eval_shape(lambda v: model.apply(v, *args, method="decode"), variables)
    assert decode(codes).shape == (1, 6, 1)  # all samples of the frames
    with pytest.raises(ValueError, match=r"2 tokens do not make a signal of size \(7,\), which has \(3,\)"):
        decode(codes, 7)
    with pytest.raises(ValueError, match="neither codes nor values"):
        decode(Latents())
    with pytest.raises(ValueError, match=r"size=\(\) for signals of 2 axes"):
        plane.init_carry(1)
    with pytest.raises(ValueError, match=r"size=\(\): the tokens are as many"):
        _ = plane.tokens
    with pytest.raises(ValueError, match="a signal of 2 axes between batch and channels"):
        model.init(jax.random.key(0), normal(1, 6, 2, 1))
