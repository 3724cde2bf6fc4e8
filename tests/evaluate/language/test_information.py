import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtok.evaluate.counts import entropy_nats
from jaxtok.evaluate.language import information as measure
from jaxtok.evaluate.language.tokens import ngram_counts, ngrams


def test_ngrams_stay_in_their_rows_and_out_of_masks():
    tokens = np.array([[0, 1, 0, 1], [1, 0, 0, 1]])
    assert ngram_counts(tokens, 2).tolist() == [3, 2, 1]
    mask = np.array([[True, True, True, False], [True, True, True, True]])
    assert ngram_counts(tokens, 2, mask).tolist() == [2, 2, 1]
    assert ngram_counts(tokens, 4).tolist() == [1, 1]
    assert ngrams(tokens, 1, np.array([True, False])).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="1 to that many"):
        ngrams(tokens, 5)
    with pytest.raises(ValueError, match="mask keeps"):
        ngrams(tokens, 4, mask & np.array([[True], [False]]))
    with pytest.raises(ValueError, match=r"use bool \[B\]"):
        ngrams(tokens, 1, np.ones(3, bool))


def test_block_entropies_of_a_chain():
    rng = np.random.default_rng(0)
    # Each token is the last one, or with probability 1/10 the other one.
    flips = rng.random((50, 2000)) < 0.1
    tokens = (rng.integers(0, 2, (50, 1)) + np.cumsum(flips, axis=1)) % 2
    rate = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    conditional = measure.conditional_entropies(tokens, 4)
    np.testing.assert_allclose(conditional, [1, rate, rate, rate], atol=0.02)
    assert np.all(np.diff(conditional) < 1e-3)
    expected = [1 - _binary((1 - 0.8**d) / 2) for d in (1, 2, 8)]
    found = [measure.mutual_information(tokens, d) for d in (1, 2, 8)]
    np.testing.assert_allclose(found, expected, atol=0.02)


def _binary(p):
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def test_correction_lifts_the_entropy_of_small_samples():
    tokens = np.random.default_rng(0).integers(0, 64, (10, 20))
    plain, corrected = (measure.ngram_entropy(tokens, 1, miller_madow=on) for on in (False, True))
    assert plain < corrected and abs(corrected - 6) < abs(plain - 6)
    assert abs(measure.mutual_information(tokens, 1)) < measure.mutual_information(
        tokens, 1, miller_madow=False
    )


@hypothesis.given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_huffman_is_within_a_bit_of_the_entropy(counts):
    hypothesis.assume(np.count_nonzero(counts) > 1)
    counts = np.array(counts)
    entropy = float(entropy_nats(counts)) / math.log(2)
    assert entropy - 1e-9 <= measure.huffman_bits(counts) < entropy + 1


def test_huffman_of_known_codes():
    assert measure.huffman_bits(np.ones(8)) == 3
    assert measure.huffman_bits(np.array([4, 2, 1, 1])) == 1.75
    assert measure.huffman_bits(np.array([0, 5])) == 0
    with pytest.raises(ValueError, match="no tokens"):
        measure.huffman_bits(np.zeros(3))


@pytest.mark.parametrize("method", measure.COMPRESSORS)
def test_compression_knows_order_from_chaos(method):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 16, (40, 100)) * 1000  # only which type it is matters, not its number
    repeated = np.tile(np.arange(10), (40, 10))
    assert 3.9 < measure.compressed_bits(noise, method) < 6
    assert measure.compressed_bits(repeated, method) < 1
    mask = np.zeros(noise.shape, bool)
    mask[:, ::10] = True
    np.testing.assert_allclose(
        measure.compressed_bits(noise, method, mask), measure.compressed_bits(noise[:, ::10], method)
    )


def test_compression_of_large_alphabets_and_wrong_methods():
    tokens = np.random.default_rng(0).integers(0, 1000, (1, 5000))
    assert 9.9 < measure.compressed_bits(tokens, "lzma") < 12
    with pytest.raises(ValueError, match="choose one of"):
        measure.compressed_bits(tokens, "zip")
    with pytest.raises(ValueError, match="keeps none"):
        measure.compressed_bits(tokens, "zlib", np.zeros(1, bool))


def test_pairs_are_merged_from_left_to_right():
    assert measure.merge_pairs(np.array([0, 1, 0, 1, 2]), 1).tolist() == [3, 3, 2]
    assert measure.merge_pairs(np.array([5, 5, 5, 5, 5, 1]), 1).tolist() == [6, 6, 5, 1]
    assert measure.merge_pairs(np.array([5, 5, 5, 5, 1]), 2).tolist() == [6, 6, 1]
    assert measure.merge_pairs(np.array([0, 1, 2, 3]), 9).tolist() == [0, 1, 2, 3]
