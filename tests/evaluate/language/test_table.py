import math

import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.language.table import language_statistics


@pytest.fixture(scope="module")
def table():
    """Images of 4 x 4 tokens whose rows are walks: the next token of a row is mostly the last one plus 1."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random((200, 4, 4)) < 0.8, 1, rng.integers(0, 16, (200, 4, 4)))
    tokens = np.cumsum(steps, axis=2) % 16
    codes = np.stack([tokens % 4, tokens // 4], axis=-1).reshape(200, 16, 2).astype(np.int32)
    mask = np.arange(200) < 190
    results = language_statistics(codes, CodeSpace((4, 4)), grid=(4, 4), mask=mask, split="eval")
    return {result.name: result for result in results}


def test_structure_shows_against_the_controls(table):
    def value(name):
        return table[f"language_{name}"].value

    for statistic in ("conditional_entropy_2", "lz78_share", "bpe_share"):
        rows, columns, mixed = (
            value(f"{statistic}_{reading}") for reading in ("rows", "columns", "shuffled")
        )
        assert rows < columns - 0.02 and rows < mixed - 0.05, statistic
    assert value("mutual_information_1_rows") > 1 > value("mutual_information_1_shuffled") + 0.9
    assert value("conditional_entropy_3_rows") <= value("conditional_entropy_2_rows") + 0.05


def test_values_are_those_of_single_functions(table):
    value = {name.removeprefix("language_"): result.value for name, result in table.items()}
    assert value["types"] == 16
    assert value["entropy_share"] == pytest.approx(value["entropy_bits"] / 4)
    assert value["entropy_bits"] <= value["huffman_bits"] < value["entropy_bits"] + 1
    assert value["huffman_reduction"] == pytest.approx(1 - value["huffman_bits"] / 4)
    assert value["innovation_first_image"] > value["innovation_last_image"]
    # What is about single tokens only does not depend on the reading.
    slopes = [
        value[f"zipf_slope_1gram_{name}"] for name in ("rows", "columns", "hilbert", "random", "shuffled")
    ]
    np.testing.assert_allclose(slopes, slopes[0])


def test_protocol(table):
    protocol = table["language_mutual_information_4_hilbert"].protocol
    assert protocol["images"] == 190 and protocol["tokens"] == 190 * 16 and protocol["levels"] == "4*2"
    assert protocol["order"] == "hilbert" and protocol["split"] == "eval"
    assert "language_mutual_information_16_rows" not in table


def test_sequences_and_degenerate_corpora():
    results = language_statistics(np.zeros((3, 2, 1), np.int32), CodeSpace((8,)), compressors=("zlib",))
    values = {result.name.removeprefix("language_"): result.value for result in results}
    assert values["types"] == 1 and values["entropy_bits"] == 0 and values["huffman_bits"] == 0
    assert math.isnan(values["zipf_exponent"]) and math.isnan(values["zipf_slope_1gram_given"])
    assert {name.rpartition("_")[2] for name in values if name.startswith("zlib")} == {
        "given",
        "random",
        "shuffled",
    }
    with pytest.raises(ValueError, match="leave it out"):
        language_statistics(np.zeros((3, 2, 1), np.int32), CodeSpace((8,)), grid=(2, 2))
    with pytest.raises(ValueError, match="no tokens"):
        language_statistics(np.zeros((3, 2, 1), np.int32), CodeSpace((8,)), mask=np.zeros(3, bool))
