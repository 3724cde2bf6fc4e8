import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.probes import linear_probe, probe_features


@pytest.fixture(scope="module")
def labelled():
    """Codes whose second token says the label, with 10 % of noise; 600 to train and 300 to test."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 900)
    codes = rng.integers(0, 6, (900, 3, 2)).astype(np.int32)
    codes[:, 1, 0] = np.where(rng.random(900) < 0.9, labels + 3, codes[:, 1, 0])
    return codes, labels


def test_features():
    space = CodeSpace((3, 5))
    codes = np.array([[[2, 4], [0, 3]]], np.int32)
    one_hot = probe_features(codes, space)
    assert one_hot.shape == (1, 16)
    assert np.flatnonzero(one_hot.toarray()).tolist() == [2, 7, 8, 14]
    bits = probe_features(codes, space, "bits")
    assert bits.tolist() == [[-1, 1, -1, -1, 1, -1, -1, 1, 1, -1]]
    np.testing.assert_array_equal(
        probe_features(np.ones((2, 1, 3), np.int32), CodeSpace.binary(3), "bits"), 1
    )
    with pytest.raises(ValueError, match="not all in"):
        probe_features(codes + 1, space)


@pytest.mark.parametrize("kind", ["one_hot", "bits"])
def test_reads_the_label_and_more_labels_help(labelled, kind):
    codes, labels = labelled
    features = probe_features(codes, CodeSpace((6, 6)), kind)
    few, all_ = linear_probe(
        features[:600],
        labels[:600],
        features[600:],
        labels[600:],
        name=kind,
        fractions=(0.02, 1.0),
        split="eval",
    )
    assert [few.name, all_.name] == [f"{kind}_accuracy_2pct", f"{kind}_accuracy_100pct"]
    assert all_.value > 0.85 and all_.value > few.value
    assert few.protocol["train_examples"] == 12 or few.protocol["train_examples"] == 13
    assert all_.protocol["train_examples"] == 600 and all_.protocol["test_examples"] == 300
    assert all_.protocol["majority_accuracy"] < 0.45 and all_.protocol["split"] == "eval"


def test_finds_nothing_where_nothing_is(labelled):
    codes, labels = labelled
    features = probe_features(codes[:, :1], CodeSpace((6, 6)))
    (result,) = linear_probe(features[:600], labels[:600], features[600:], labels[600:], fractions=(1.0,))
    assert result.value < 0.45


def test_embeddings_of_any_scale():
    rng = np.random.default_rng(1)
    labels = np.array([0, 1] * 50)
    features = np.stack([1e-3 * labels + 7, rng.normal(size=100)], axis=1)
    (result,) = linear_probe(features[:60], labels[:60], features[60:], labels[60:], fractions=(1.0,))
    assert result.value == 1


def test_what_does_not_fit_is_refused():
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="do not belong together"):
        linear_probe(x, y[:3], x, y)
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(x, 0 * y, x, y)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        linear_probe(x, y, x, y, fractions=(0.0,))
