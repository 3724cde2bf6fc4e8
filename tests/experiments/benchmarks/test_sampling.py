import pytest

from experiments.benchmarks.sampling import Options, measure, table


@pytest.mark.slow  # compiles four samplers
def test_both_sides_draw_the_same_and_take_turns():
    pytest.importorskip("torch")
    # Raises where the codes of the two sides differ.
    report = measure(Options(size="tiny", batch=2, rounds=3, block_seconds=0.01))
    assert list(report["compared"]) == ["llamagen", "rar", "maskgit", "var"]
    for side in ("torch", "torch as released"):
        for name, ratios in report["times_as_fast_as_" + side.replace(" ", "_")].items():
            theirs, mine = (report["seconds"]["wall"][f"{name}/{one}"] for one in (side, "jaxtok"))
            per_round = sorted(a / b for a, b in zip(theirs, mine, strict=True))
            assert [ratios["wall"][key] for key in ("low", "median", "high")] == per_round
    assert list(report["times_as_fast_as_torch"]) == list(report["compared"])
    assert list(report["times_as_fast_as_torch_as_released"]) == ["llamagen", "rar"]
    assert set(report["times_as_fast_as_llamagen/jaxtok"]) == {"rar", "maskgit", "var"}
    assert table(report).row_count == 6
    with pytest.raises(ValueError, match=r"cases \['flow'\] are unknown"):
        measure(Options(cases=("flow",)))
