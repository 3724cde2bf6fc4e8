import pytest

from experiments.benchmarks import data_loop
from experiments.benchmarks.data_loop import Options, measure
from tests.small_run import PRESETS


@pytest.mark.slow  # compiles a step of the smallest model
def test_both_loops_run_and_the_pipeline_is_counted(monkeypatch):
    monkeypatch.setattr(data_loop.instella_t2i, "PRESETS", PRESETS)
    options = Options(preset="tiny", workers=(0,), rounds=3, block_seconds=0.05, pipeline_seconds=0.1)
    found = measure(options)["workers"][0]
    ratio = found["real_over_constant"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert found["pipeline_images_per_second"] > 64 and found["seconds_per_step"]["real"] > 0
