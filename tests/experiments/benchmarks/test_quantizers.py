"""The comparison of quantizers with PyTorch: same results, honest estimates, tables of what was found."""

import dataclasses
import json
import mmap
import time

import numpy as np
import pytest

from experiments.benchmarks import quantizers, quantizers_gpu, quantizers_memory, quantizers_tables
from experiments.benchmarks.quantizers_cases import (
    Case,
    cases,
    disagreements,
    fewer_tokens,
    inputs,
    needed_bytes,
)
from experiments.benchmarks.timing import take_turns, times_as_fast

VQ = Case("vq", "look-up", tokens=256, codes=32, width=8)
SMALL = list(
    cases(
        ("vq", "rvq", "lfq", "fsq"), ("look-up", "training step"), 256, (32,), (8,), (5,), 3, residual=(16, 4)
    )
)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_jaxtok_finds_the_nearest_codes(case):
    from experiments.benchmarks.quantizers_jax import jaxtok_side

    side = jaxtok_side(case)
    found = side.results()
    side.run(2)  # the state of a training step is handed on
    assert found["codes"].shape[0] == found["values"].shape[0] == case.tokens
    assert ("gradient" in found) == (case.task == "training step")
    assert side.planned_bytes is None or side.planned_bytes > 0
    if case.family == "vq":
        z, book = inputs(case)["z"].reshape(case.tokens, -1), inputs(case)["codebooks"][0]
        distances = np.square(z[:, None].astype(np.float64) - book).sum(-1)
        assert np.array_equal(found["codes"][:, 0], distances.argmin(1))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_pytorch_computes_the_same(case):
    pytest.importorskip("vector_quantize_pytorch")
    mine = quantizers_memory.build(case, "jaxtok").results()
    for name in ("vqp", "torch") if "codebooks" in inputs(case) else ("vqp",):
        side = quantizers_memory.build(case, name)
        assert set(disagreements(case, mine, side.results())) > {"values"}
        side.run(2)


def test_by_hand_needs_a_codebook():
    pytest.importorskip("vector_quantize_pytorch")
    with pytest.raises(ValueError, match="no codebook"):
        quantizers_memory.build(Case("fsq", "look-up", 256, 64_000, 6), "torch")


def test_other_codes_are_accepted_only_when_they_tie():
    z, books = inputs(VQ)["z"], inputs(VQ)["codebooks"]
    codes = np.square(z.reshape(256, 1, 8) - books[0]).sum(-1).argmin(1)[:, None]
    mine = {"codes": codes, "values": books[0][codes[:, 0]]}
    other = {name: x.copy() for name, x in mine.items()}
    other["codes"][3] = (codes[3] + 1) % 32
    with pytest.raises(ValueError, match="1 tokens have other codes"):
        disagreements(VQ, mine, other)
    twin = books[0, codes[3, 0]].copy()
    books[0, other["codes"][3, 0]] = twin  # now both are equally near
    try:
        assert disagreements(VQ, mine, other)["tokens with a tie"] == 1 / 256
    finally:
        inputs.cache_clear()
    with pytest.raises(ValueError, match="results differ"):
        disagreements(VQ, mine, mine | {"values": mine["values"] + 0.01})


def test_estimates_grow_with_tokens_and_codes_and_choose_fewer_tokens():
    case = Case("lfq", "training step", 16_384, 2**18, 18)
    assert needed_bytes(case, "vqp") > 4 * 16_384 * 2**18  # at least one array of all scores
    smaller = fewer_tokens(case, "vqp", limit=8 * 10**9)
    assert needed_bytes(smaller, "vqp") <= 2 * 10**9 < needed_bytes(smaller, "vqp") * 2
    assert dataclasses.replace(smaller, tokens=16_384) == case
    assert fewer_tokens(VQ, "vqp", limit=10**9) == VQ


def test_sides_take_turns_and_long_cases_lose_rounds():
    calls = []
    sides = {name: lambda count, name=name: calls.append(name) for name in ("vqp", "jaxtok")}
    times = take_turns(sides, rounds=6, block_seconds=1e-12, case_seconds=0.0)
    assert calls[-4:] == ["jaxtok", "vqp", "vqp", "jaxtok"]  # without warm-up when a turn is one iteration
    assert {len(own) for clock in times.values() for own in clock.values()} == {3}
    ratios = times_as_fast({"wall": {"vqp": [2.0, 4.0, 6.0], "jaxtok": [1.0, 8.0, 2.0]}}, "jaxtok")
    assert ratios["wall"] == {"vqp": {"median": 2.0, "low": 0.5, "high": 3.0}}


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    case = Case("vq", "look-up", tokens=4096, codes=2048, width=8)
    found = quantizers_memory.measure(case, "jaxtok", threads=1)
    assert found["planned"] < 4 * case.tokens * case.codes  # no array of all scores
    assert 0 <= found["peak"] < 4 * case.tokens * case.codes
    with pytest.raises(RuntimeError, match="the process ended"):
        quantizers_memory.measure(case, "nobody", threads=1)


def test_what_does_not_fit_is_compared_with_fewer_tokens(monkeypatch):
    pytest.importorskip("vector_quantize_pytorch")
    # The process of the tests keeps its cores and threads.
    monkeypatch.setattr(quantizers, "prepare", lambda options: int(options.memory_limit * 1e9))
    options = quantizers.Options(
        families=("vq",), tasks=("look-up",), tokens=2048, codes=(32,), widths=(4,), rounds=1
    )
    options = dataclasses.replace(options, block_seconds=1e-9, memory=False, memory_limit=6e-4)
    full, fewer = quantizers.measure(options)
    assert full["case"]["tokens"] == 2048 and set(full["does_not_fit"]) == {"vqp"}
    assert set(full["jaxtok_times_as_fast_as"]["wall"]) == {"torch"} and not full["bytes"]
    assert fewer["case"]["tokens"] < 2048 and set(fewer["differences"]) == {"vqp", "torch"}
    assert quantizers_tables.rows([full, fewer], "look-up")[0][5] == "out of memory"


def test_growth_of_memory_is_seen():
    if not quantizers_memory._RESET.exists():
        pytest.skip("no /proc")

    def hold():
        with mmap.mmap(-1, 2**26) as pages:  # fresh pages, whatever the allocator has kept
            pages.write(bytes(2**26))
            time.sleep(0.1)

    for measure in (quantizers_memory.peak_growth, quantizers_memory._sampled_growth):
        assert 2**25 < measure(hold) < 2**28


def _record(case, others, **more):
    ratio = {"median": 2.0, "low": 1.5, "high": 3.0}
    return {
        "case": dataclasses.asdict(case),
        "milliseconds": {"jaxtok": 1.234},
        "jaxtok_times_as_fast_as": {"wall": {name: ratio for name in others}},
        "bytes": {"jaxtok": {"peak": 2_000_000, "planned": 1}},
        "does_not_fit": {},
        **more,
    }


def test_tables_say_what_did_not_fit():
    lfq = Case("lfq", "training step", 16_384, 2**18, 18)
    records = [_record(VQ, ["vqp", "torch"]), _record(lfq, [], does_not_fit={"vqp": 120_000_000_000})]
    (cells,) = quantizers_tables.rows(records, "look-up")
    assert cells == ("VQ", "32", "8", "256", "1.23", *["2.0 (1.5-3.0)"] * 2, "2.0", "", "")
    (cells,) = quantizers_tables.rows(records, "training step")
    assert cells[5:] == ("out of memory", "", "2.0", "(about 120,000)", "")
    assert quantizers_tables.table(records).row_count == 4  # a heading for each task
    report = {"records": records, "versions": quantizers_tables.versions(), "options": {"threads": 1}}
    report["options"]["keep_memory"] = False
    text = quantizers_tables.markdown(json.loads(json.dumps(report)))
    assert report["versions"]["date"] in text and text.count("\n|") == 6


def test_roofline_of_a_gpu():
    case = Case("vq", "look-up", 16_384, 65_536, 256)
    operations = 2 * case.tokens * case.codes * case.width
    assert quantizers_gpu.least_seconds(case, "NVIDIA H200") == pytest.approx(operations / 67e12)
    thin = dataclasses.replace(case, width=1, codes=1)  # traffic decides
    assert quantizers_gpu.least_seconds(thin, "NVIDIA H200") > 2 * 16_384 / 67e12
    assert quantizers_gpu.least_seconds(case, "something else") is None
    ratio = {name: {"median": 2.0, "low": 1.5, "high": 3.0} for name in ("xla", "torch.compile", "torch")}
    record = {
        "case": dataclasses.asdict(case),
        "device": "NVIDIA H200",
        "milliseconds": {"pallas": 12.5},
        "of_roofline": {"pallas": 0.655},
        "pallas_times_as_fast_as": {"wall": ratio},
    }
    assert quantizers_gpu.rows([record])[0][:5] == ("65,536", "256", "16,384", "12.5", "66%")
    versions = {"date": "2026-01-01", "jax": "1", "torch": "2"}
    assert "66%" in quantizers_gpu.markdown({"records": [record], "versions": versions})
    assert quantizers_gpu.table([record]).row_count == 1
