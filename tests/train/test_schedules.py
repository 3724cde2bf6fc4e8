import numpy as np
import pytest
import tyro

from jaxtok.train.schedules import TrainConfig, schedule


def _rates(**fit):
    function = schedule(TrainConfig(learning_rate=2.0, **fit))
    return [float(function(n)) for n in range(fit["steps"] + 1)]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("constant", [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ("linear", [0.5, 1.0, 1.5, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.5, 1.0, 1.5, 2.0, 2.0, 1 + np.cos(np.pi / 4), 1.0, 1 - np.cos(np.pi / 4), 0.0]),
    ],
)
def test_warm_up_then_schedule(name, expected):
    rates = _rates(schedule=name, steps=8, warmup_steps=4)
    np.testing.assert_allclose(rates, expected, atol=1e-6)


@pytest.mark.parametrize("warmup, first", [(0, 2.0), (1, 2.0), (2, 1.0)])
def test_short_warm_ups(warmup, first):
    rates = _rates(schedule="cosine", steps=4, warmup_steps=warmup)
    np.testing.assert_allclose(rates[0], first, atol=1e-6)
    np.testing.assert_allclose(rates[-1], 0.0, atol=1e-6)


def test_warm_up_longer_than_the_run():
    np.testing.assert_allclose(_rates(steps=2, warmup_steps=8), [0.25, 0.5, 0.75], atol=1e-6)


@pytest.mark.parametrize(
    "fit, message",
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0, it has to be positive"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0, it has to be in \[0, 1\)"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"micro_batches": 0, "eps": 0.0}, "eps is 0.0.*; micro_batches is 0, it has to be 1 or more"),
        ({"groups": (("encoder", -1.0),)}, "groups is .*factors >= 0"),
    ],
)
def test_impossible_settings(fit, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fit)


def test_flags():
    args = [
        "--steps",
        "5",
        "--betas",
        "0.8",
        "0.9",
        "--groups",
        "encoder",
        "0",
        "head",
        "10",
        "--schedule",
        "linear",
    ]
    fit = tyro.cli(TrainConfig, args=args)
    assert fit == TrainConfig(
        steps=5, betas=(0.8, 0.9), groups=(("encoder", 0.0), ("head", 10.0)), schedule="linear"
    )
