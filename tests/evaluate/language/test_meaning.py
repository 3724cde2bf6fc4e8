"""Granularity and topology."""

import numpy as np
import pytest

from jaxtok.evaluate.language.granularity import cell_labels, granularity
from jaxtok.evaluate.language.topology import (
    cooccurrence,
    cooccurrence_embedding,
    linear_cka,
    ppmi,
    procrustes,
)


def test_majority_of_a_cell():
    labels = np.array([[[1, 1, 2, 5], [1, 0, 5, 2]]])
    assert cell_labels(labels, 1, 2).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="do not divide"):
        cell_labels(labels, 1, 3)


def test_tokens_of_parts_tell_parts():
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 4, (100, 16))
    found = granularity(parts + 10, parts)
    assert found.purity == 1 and found.nmi == pytest.approx(1) and found.adjusted_nmi == pytest.approx(1)
    assert found.shuffled_purity < 0.35 and found.shuffled_information < 0.02
    scene = rng.integers(0, 3, 100)
    assert granularity(parts, scene).nmi < 0.02
    spoiled = np.where(rng.random(parts.shape) < 0.5, 9, parts)
    assert granularity(spoiled, parts, spoiled < 9).purity == 1 > granularity(spoiled, parts).purity
    with pytest.raises(ValueError, match="use \\[B\\]"):
        granularity(parts, scene[:3])
    assert granularity(parts, np.zeros(100, int)).nmi == 0


def test_cooccurrence():
    tokens = np.array([[0, 1, 2], [0, 1, 1]])
    near = cooccurrence(tokens, 3, window=1)
    assert near.tolist() == [[0, 2, 0], [2, 2, 1], [0, 1, 0]]
    assert cooccurrence(tokens, 3, window=9)[0].tolist() == [0, 3, 1]
    masked = cooccurrence(tokens, 3, window=1, mask=np.array([[True, True, False], [False, True, True]]))
    assert masked.tolist() == [[0, 1, 0], [1, 2, 0], [0, 0, 0]]
    expected = np.log(1 * 8 / (5 * 1))
    np.testing.assert_allclose(ppmi(near)[1, 2], expected)
    assert ppmi(near)[0, 0] == 0
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        cooccurrence(tokens, 2)


def test_types_in_the_same_contexts_are_neighbours():
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 2, (200, 1))
    tokens = 5 * topic + rng.integers(0, 5, (200, 12))
    embedding = cooccurrence_embedding(cooccurrence(tokens, 10), 2)
    same, other = (np.linalg.norm(embedding[0] - embedding[i]) for i in (1, 6))
    assert same < other / 3
    with pytest.raises(ValueError, match="1 to that many"):
        cooccurrence_embedding(np.ones((3, 3)), 4)


def test_rotations_do_not_matter():
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(50, 4)), rng.normal(size=(50, 6))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    turned = 3 * x @ rotation + 1
    np.testing.assert_allclose(procrustes(x, turned), 0, atol=1e-9)
    np.testing.assert_allclose(linear_cka(x, turned), 1)
    assert procrustes(x, other) > 0.5 and linear_cka(x, other) < 0.5
    np.testing.assert_allclose(procrustes(x, other), procrustes(other, x))
    with pytest.raises(ValueError, match="rows are alike"):
        procrustes(x, np.ones((50, 2)))
