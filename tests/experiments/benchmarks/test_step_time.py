"""The comparison with PyTorch computes the same on both sides, and its ratios are what they say."""

import pytest

from experiments.benchmarks.step_time import interleaved, ratios, table
from tests.small_system import SMALL


def test_ratios_are_taken_within_a_round():
    found = ratios({"torch": [2.0, 4.0, 6.0], "jaxtok": [1.0, 8.0, 2.0]})
    assert found["jaxtok"] == {"median": 2.0, "low": 0.5, "high": 3.0}
    assert found["torch"] == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_sides_take_turns():
    calls = []
    sides = {name: lambda count, name=name: calls.append(name) for name in ("torch", "jaxtok")}
    times = interleaved(sides, rounds=4, block_seconds=1e-6)
    assert {len(own) for own in (*times["wall"].values(), *times["cpu"].values())} == {4}
    # Each turn is a warm-up and a measurement; the order is reversed in every second round.
    assert calls[-8:] == ["torch", "torch", "jaxtok", "jaxtok", "jaxtok", "jaxtok", "torch", "torch"]


@pytest.mark.slow  # with the smallest model
@pytest.mark.belongs_to("experiments.benchmarks.step_time_cases")
@pytest.mark.parametrize("task", ["train tokenizer", "train diffusion", "sample autoregressive"])
def test_both_sides_compute_the_same(task, monkeypatch):
    pytest.importorskip("torch")
    from experiments.benchmarks import step_time_cases
    from experiments.benchmarks.step_time_cases import cases

    monkeypatch.setattr(step_time_cases, "SIZES", {"tiny": (SMALL, 8)})
    (case,) = cases("tiny", (task,))  # raises where they differ
    assert case.differences and max(case.differences.values()) < 1e-4
    times = interleaved(case.sides, rounds=1, block_seconds=1e-6)
    assert set(times["wall"]) >= {"torch", "jaxtok"}
    record = {
        "size": "tiny",
        "task": task,
        "milliseconds": {name: 1e3 * own[0] for name, own in times["wall"].items()},
        "times_as_fast_as_torch": {clock: ratios(own) for clock, own in times.items()},
    }
    assert table([record]).row_count == 1
