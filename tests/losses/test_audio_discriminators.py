"""Discriminators of waveforms: what they see, published sizes, parity with PyTorch's convolutions."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.audio_discriminators import (
    CentredConvolution,
    PeriodDiscriminator,
    STFTDiscriminator,
    multi_period,
    multi_stft,
)
from tests.filled import filled, normal

MODELS = {
    "period": (PeriodDiscriminator(3, (4, 6), kernel=3), 24),
    "stft": (STFTDiscriminator(16, 4, (1, 2), kernel=(3, 5)), 64),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request):
    """Everything that is looked at, of one discriminator, compiled together."""
    model, length = MODELS[request.param]
    x = normal(3, length, 2)
    variables = filled(model, x)

    @jax.jit
    def compute(variables, x):
        logit = lambda y: model.apply(variables, y[None])[0, 2, 1, 0]
        return {
            "logits": model.apply(variables, x),
            "shown": model.apply(variables, x, method="discriminate"),
            "other": model.apply(variables, x.at[::2].set(0.0)),
            "seen": jax.grad(logit)(x[0]),
        }

    return model, x, jax.device_get(compute(variables, x))


def test_logits_and_features(run):
    model, x, out = run
    np.testing.assert_array_equal(out["logits"], out["shown"].logits)
    assert out["logits"].dtype == np.float32 and out["logits"].shape[-1] == 1
    layers = len(model.widths) + 1 if isinstance(model, PeriodDiscriminator) else len(model.dilations) + 2
    assert len(out["shown"].features) == layers
    assert all(feature.shape[0] == len(x) for feature in out["shown"].features)
    np.testing.assert_allclose(out["other"][1], out["logits"][1], rtol=1e-5, atol=1e-5)
    assert (out["other"][0] != out["logits"][0]).any()


def test_a_logit_sees_samples_of_its_period_or_frames(run):
    model, _, out = run
    seen = np.flatnonzero(np.abs(out["seen"]).sum(axis=-1))
    if isinstance(model, PeriodDiscriminator):
        assert set(seen % model.period) == {1} and len(seen) > 1
    else:
        assert len(seen) > model.fft


def test_folding_reflects_the_end():
    model, x = PeriodDiscriminator(5, (2,)), normal(1, 8, 1)
    variables = filled(model, x)
    longer = jnp.concatenate([x, x[:, -2:-4:-1]], axis=1)
    np.testing.assert_array_equal(model.apply(variables, x), model.apply(variables, longer))


@pytest.mark.slow  # parity
def test_as_torch_pads():
    torch = pytest.importorskip("torch")
    model, x = CentredConvolution(3, (5, 3), (3, 1), (1, 2), weight_norm=False), normal(2, 11, 6, 2)
    variables = filled(model, x)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    expected = torch.nn.functional.conv2d(
        torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy()),
        torch.tensor(kernel.transpose(3, 2, 0, 1).copy()),
        torch.tensor(bias),
        stride=(3, 1),
        padding=(2, 2),
        dilation=(1, 2),
    )
    np.testing.assert_allclose(model.apply(variables, x), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def _sizes(model, length):
    wave = jax.ShapeDtypeStruct((1, length, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), wave)
    shown = jax.eval_shape(lambda v, x: model.apply(v, x, method="discriminate"), variables, wave)
    return sum(leaf.size for leaf in jax.tree.leaves(variables)), shown


def test_published_sizes():
    norm = lambda a, b, k: a * b * k + 2 * b  # weight, length and bias
    widths = (1, 32, 128, 512, 1024, 1024)
    one = sum(norm(a, b, 5) for a, b in pairwise(widths)) + norm(1024, 1, 3)
    count, shown = _sizes(multi_period(), 8192)
    assert count == 5 * one and len(shown) == 5
    assert shown[1].logits.shape == (1, 34, 3, 1)  # 2731 rows, divided by 3 four times
    one = 2 * 32 * 27 + 32 + 3 * norm(32, 32, 27) + norm(32, 32, 9) + norm(32, 1, 9)
    count, shown = _sizes(multi_stft(), 24000)
    assert count == 3 * one
    assert shown[0].logits.shape == (1, 1 + (24000 - 1024) // 256, 65, 1)
    assert [feature.shape[-1] for feature in shown[0].features] == [32] * 5


def test_short_waveforms_are_an_error():
    with pytest.raises(ValueError, match="a waveform of 60 samples is too short for fft=64"):
        STFTDiscriminator(64).init(jax.random.key(0), jnp.zeros((1, 60, 1)))
