import numpy as np
import pytest

from jaxtok.evaluate import protocol
from jaxtok.evaluate.protocol import Result


def test_difference_of_like_protocols():
    a = Result("psnr_uint8", 20.0, {"images": 360, "split": "test"})
    b = Result("psnr_uint8", 23.5, {"images": 360, "split": "test"})
    assert protocol.difference(a, b) == 3.5


def test_unlike_protocols_raise_and_name_the_keys():
    a = Result("psnr_uint8", 20.0, {"images": 360, "split": "test", "ema": True})
    b = Result("psnr_uint8", 23.5, {"images": 50, "split": "test"})
    with pytest.raises(ValueError, match=r"ema: True against '\(absent\)'; images: 360 against 50") as error:
        protocol.difference(a, b)
    assert "split" not in str(error.value)
    assert protocol.difference(a, b, varying=("ema", "images")) == 3.5
    with pytest.raises(ValueError, match="different metrics"):
        protocol.difference(a, Result("ssim", 1.0))


def test_json_round_trip(tmp_path):
    results = [
        Result(
            "fd",
            0.1 + 0.2,
            {"size": (8, 8, 1), "seed": np.int64(3), "guidance": np.float32(1.5), "none": None},
        ),
        Result("broken", float("nan")),
        Result("endless", float("inf")),
    ]
    path = tmp_path / "results.json"
    protocol.write_results(path, results)
    back = protocol.read_results(path)
    assert back[0] == results[0] and back[0].protocol["size"] == [8, 8, 1]
    assert np.isnan(back[1].value) and back[2].value == float("inf")
    assert "NaN" not in path.read_text()


def test_bad_records_are_named(tmp_path):
    with pytest.raises(ValueError, match="'network' of metric 'fd'"):
        Result("fd", 1.0, {"network": object()})
    with pytest.raises(ValueError, match="lacks protocol"):
        Result.from_dict({"name": "fd", "value": 1.0})
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        protocol.read_results(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no list of result records"):
        protocol.read_results(path)


def test_table_lists_every_result():
    text = protocol.table([Result("a", 1.0, {"n": 3}), Result("longer_name", 22.25)])
    assert text.splitlines() == [
        "metric       value  protocol",
        "a                1  n=3",
        "longer_name  22.25",
    ]
