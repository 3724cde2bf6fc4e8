import pytest

from experiments.benchmarks.pretokenised import Options, measure


@pytest.mark.slow  # compiles two steps of two priors
def test_both_sides_of_both_priors_are_timed(tmp_path):
    found = measure(Options(preset="tiny", rounds=3, block_seconds=0.05), tmp_path)
    assert found["encoded_images_per_second"] > 64 and found["bytes_per_image"] == 16
    assert set(found["priors"]) == {"diffusion", "autoregressive"}
    for prior in found["priors"].values():
        ratio = prior["times_as_fast"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
