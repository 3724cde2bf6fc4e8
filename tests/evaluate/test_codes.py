import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtok.codes import CodeSpace
from jaxtok.evaluate import codes as measure
from jaxtok.evaluate import counts as of_counts
from jaxtok.evaluate.code_window import CodeWindow
from jaxtok.evaluate.codes import CodeStatistics


def counts_of(indices, size):
    return np.bincount(indices, minlength=size)


def test_fixtures_of_the_sheet():
    counts = counts_of([0, 0, 0, 1, 1, 2, 5, 5, 5, 5], 8)
    assert of_counts.usage(counts) == 0.5
    assert of_counts.dead_codes(counts) == 4
    np.testing.assert_allclose(of_counts.entropy_nats(counts), 1.279854225834, atol=1e-9)
    np.testing.assert_allclose(of_counts.perplexity(counts), 3.596115466625, atol=1e-9)
    counts = np.array([3, 2, 1, 1, 1])
    np.testing.assert_allclose(of_counts.entropy_nats(counts), 1.494175138289, atol=1e-9)
    np.testing.assert_allclose(of_counts.entropy_nats(counts, miller_madow=True), 1.744175138289, atol=1e-9)


def test_describes_alphabets():
    assert measure.describe_levels((2, 2, 2, 8, 5)) == "2*3,8,5"


def test_counts_one_slot_per_alphabet():
    space = CodeSpace((3, 2))
    statistics = CodeStatistics(space, tokens=2)
    statistics.update(np.array([[[0, 0], [2, 1]], [[0, 1], [1, 1]]], np.int32))
    np.testing.assert_array_equal(statistics.token_counts(0), [[2, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(statistics.token_counts(1), [[1, 1], [0, 2]])
    np.testing.assert_array_equal(statistics.slot_counts(0), [2, 1, 1])
    np.testing.assert_allclose(statistics.entropy_bits(), [[0, 1], [1, 0]], atol=1e-12)
    assert {result.name: result.value for result in statistics.results()}["entropy_bits_per_image"] == 2.0


@hypothesis.given(st.integers(0, 2**31), st.integers(1, 5))
@hypothesis.settings(max_examples=25, deadline=None)
def test_streaming_masks_and_merging_equal_one_shot(seed, parts):
    rng = np.random.default_rng(seed)
    space = CodeSpace((2,) * 4)
    codes = rng.integers(0, 2, (9, 3, 4)).astype(np.int32)
    whole = CodeStatistics(space, 3)
    whole.update(codes)
    merged = CodeStatistics(space, 3)
    for piece in np.array_split(codes, parts):
        part = CodeStatistics(space, 3)
        padding = np.full((2, 3, 4), -7, np.int32)  # nonsense in masked rows must not be looked at
        part.update(np.concatenate([piece, padding]), np.arange(len(piece) + 2) < len(piece))
        merged.merge(part)
    assert whole.results() == merged.results()
    np.testing.assert_array_equal(whole.bit_correlation(), merged.bit_correlation())


def test_large_alphabets_are_pooled_over_tokens(monkeypatch):
    monkeypatch.setattr(measure, "_LARGEST_COUNT_TABLE", 10)
    statistics = CodeStatistics(CodeSpace((8,)), tokens=5)
    statistics.update(np.array([[[0], [1], [2], [3], [3]]], np.int32))
    np.testing.assert_array_equal(statistics.slot_counts(0), [1, 1, 1, 2, 0, 0, 0, 0])
    assert statistics.entropy_bits().shape == (1, 1)
    with pytest.raises(ValueError, match="pooled over tokens"):
        statistics.token_counts(0)
    results = {result.name: result for result in statistics.results()}
    assert results["code_usage"].value == 0.5
    assert results["entropy_bits_per_image"].protocol["counts"] == "pooled over tokens"


def test_bit_balance_and_correlation():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (200, 2, 3)).astype(np.int32)
    codes[:, 1, 0] = codes[:, 0, 0]  # copy
    codes[:, 1, 1] = 1 - codes[:, 0, 1]  # complement
    codes[:, 1, 2] = 1  # stuck
    statistics = CodeStatistics(CodeSpace.binary(3), 2)
    statistics.update(codes)
    np.testing.assert_allclose(statistics.bit_balance(), codes.mean(axis=0))
    correlation = statistics.bit_correlation()
    expected = np.corrcoef(codes.reshape(200, 6)[:, :5].T)
    np.testing.assert_allclose(correlation[:5, :5], expected, atol=1e-12)
    np.testing.assert_allclose([correlation[0, 3], correlation[1, 4]], [1, -1])
    assert np.all(correlation[5] == 0)
    results = {result.name: result.value for result in statistics.results()}
    np.testing.assert_allclose(results["stuck_bits"], 1 / 6)


def test_pairs_of_large_latents_stay_inside_tokens(monkeypatch):
    monkeypatch.setattr(measure, "_LARGEST_PAIR_TABLE", 4)
    codes = np.random.default_rng(1).integers(0, 2, (50, 3, 2)).astype(np.int32)
    statistics = CodeStatistics(CodeSpace.binary(2), 3)
    statistics.update(codes)
    np.testing.assert_allclose(statistics.bit_correlation(), np.corrcoef(codes.reshape(-1, 2).T), atol=1e-12)


def test_masked_tokens_are_not_counted():
    statistics = CodeStatistics(CodeSpace((2, 2)), 2)
    mask = np.array([[True, False]])
    statistics.update(np.array([[[1, 1], [0, 0]]], np.int32), mask)
    np.testing.assert_array_equal(statistics.slot_counts(0), [0, 1])
    with pytest.raises(ValueError, match="entropy of no codes"):
        statistics.entropy_bits()


def test_bad_codes_are_named():
    statistics = CodeStatistics(CodeSpace((4, 2)), 2)
    with pytest.raises(ValueError, match=r"code -1 at image 0, token 1, slot 1 is outside \[0, 2\)"):
        statistics.update(np.array([[[3, 1], [0, -1]]], np.int32))
    with pytest.raises(ValueError, match=r"expected \[B, 2, 2\]"):
        statistics.update(np.zeros((1, 3, 2), np.int32))
    with pytest.raises(ValueError, match="binary slots, this space has levels 4,2"):
        statistics.bit_correlation()
    with pytest.raises(ValueError, match="cannot be merged"):
        statistics.merge(CodeStatistics(CodeSpace((4, 2)), 3))


def test_whole_tokens_are_counted_where_their_alphabet_is_small(monkeypatch):
    codes = np.array([[[0, 0], [2, 1]], [[2, 1], [1, 0]]], np.int32)
    statistics = CodeStatistics(CodeSpace((3, 2)), tokens=2)
    statistics.update(codes, np.array([[[True, True], [True, True]], [[True, True], [True, False]]]))
    assert statistics.joint_counts().tolist() == [1, 0, 0, 0, 0, 2]
    values = {result.name: result.value for result in statistics.results()}
    assert values["joint_code_usage"] == 1 / 3 and values["joint_dead_codes"] == 4
    np.testing.assert_allclose(values["joint_code_perplexity"], 3 / 2 ** (2 / 3))
    monkeypatch.setattr(measure, "_LARGEST_JOINT_TABLE", 5)
    large = CodeStatistics(CodeSpace((3, 2)), tokens=2)
    large.update(codes)
    assert "joint_code_usage" not in {result.name for result in large.results()}
    with pytest.raises(ValueError, match="too many to count"):
        large.joint_counts()
    single = CodeStatistics(CodeSpace((3,)), tokens=2)
    single.update(codes[..., :1])
    assert single.joint_counts().tolist() == [1, 1, 2]


def test_results_of_single_slots():
    statistics = CodeStatistics(CodeSpace((8, 2)), tokens=10)
    first = np.array([0, 0, 0, 1, 1, 2, 5, 5, 5, 5])
    statistics.update(np.stack([first, first % 2], axis=-1)[None].astype(np.int32))
    results = {result.name: result for result in statistics.slot_results(split="eval")}
    assert results["code_usage_slot_0"].value == 0.5 and results["dead_codes_slot_0"].value == 4
    np.testing.assert_allclose(results["code_perplexity_slot_0"].value, 3.596115466625, atol=1e-9)
    np.testing.assert_allclose(results["uniform_kl_bits_slot_0"].value, 3 - 1.846439344671, atol=1e-9)
    corrected = 1.846439344671 + 3 / 20 / np.log(2)
    np.testing.assert_allclose(results["entropy_bits_slot_0"].value, corrected, atol=1e-9)
    assert results["dead_codes_slot_1"].value == 0
    assert results["code_usage_slot_1"].protocol == {
        "images": 1,
        "tokens": 10,
        "codes": 10,
        "level": 2,
        "split": "eval",
    }


def test_a_window_forgets():
    window = CodeWindow(CodeSpace((4,)), tokens=2, updates=2)
    for value in range(4):
        window.update(np.full((2, 2, 1), value, np.int32), np.array([True, False]))
    assert window.statistics().slot_counts(0).tolist() == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="at least one batch"):
        CodeWindow(CodeSpace((4,)), tokens=2, updates=0)
