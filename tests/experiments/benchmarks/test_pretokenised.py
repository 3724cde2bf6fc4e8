import pytest

from experiments.benchmarks import pretokenised
from experiments.benchmarks.pretokenised import Options, measure
from tests.small_run import PRESETS


@pytest.mark.slow  # compiles two steps of the smallest model
def test_both_sides_of_a_prior_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(pretokenised.instella_t2i, "PRESETS", PRESETS)
    options = Options(preset="tiny", priors=("autoregressive",), rounds=3, block_seconds=0.05)
    found = measure(options, tmp_path)
    assert found["encoded_images_per_second"] > 64 and found["bytes_per_image"] == 2  # 3 tokens of 4 bits
    ratio = found["priors"]["autoregressive"]["times_as_fast"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
