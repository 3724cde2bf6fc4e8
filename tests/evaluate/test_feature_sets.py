import dataclasses
import logging

import numpy as np
import pytest

from jaxtok.evaluate import feature_sets
from jaxtok.evaluate.digit_classifier import real_digits
from jaxtok.evaluate.distributions import class_score
from jaxtok.evaluate.feature_sets import FeatureSet, frechet_results, score_result, set_results
from jaxtok.evaluate.features.digits import digit_network
from jaxtok.evaluate.frechet import frechet, moments_of
from jaxtok.evaluate.headlines import basis


@pytest.fixture(scope="module")
def digits():
    return real_digits("eval")[0]


def seen(images, keep=10_000):
    found = FeatureSet(digit_network(), keep)
    found.update(images)
    return found


def by_name(results):
    return {result.name: result for result in results}


def test_batches_padding_and_shards_do_not_matter(digits):
    whole, padded = seen(digits), np.concatenate([digits, np.full((23, 8, 8, 1), 99, np.uint8)])
    shards = FeatureSet(digit_network()), FeatureSet(digit_network()), FeatureSet(digit_network())
    for start in range(0, 320, 64):
        shards[start // 64 % 2].update(padded[start : start + 64], start + np.arange(64) < 297)
    for shard in shards[1:]:
        shards[0].merge(shard)
    assert shards[0].count == whole.count == 297
    ours, theirs = shards[0].reference("x"), whole.reference("x")
    assert ours.hash == theirs.hash  # of the images, in any order
    np.testing.assert_allclose(ours.features.covariance, theirs.features.covariance, atol=1e-5)
    np.testing.assert_allclose(ours.spatial.mean, theirs.spatial.mean, atol=1e-5)
    assert seen(digits[:-1]).reference("x").hash != theirs.hash
    floats = seen(digits[:9].astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(floats.rows, seen(digits[:9]).rows)
    assert seen(digits, keep=10).rows.shape == (10, 64) and len(seen(digits, keep=10).logits) == 297


def test_results_carry_their_protocol(digits):
    half, rest = seen(digits[:148]), seen(digits[148:])
    shared = {"guidance": 3.0, "seed": 5}
    results = by_name(frechet_results(half, rest.reference("rest"), "g", shared))
    assert list(results) == [
        "gfd_digits", "gfd_digits_mean_term", "gfd_digits_covariance_term", "sfd_digits"
    ]  # fmt: skip
    expected = frechet(moments_of(half.rows).gaussian(), moments_of(rest.rows).gaussian())
    assert results["gfd_digits"].value == pytest.approx(expected.value, rel=1e-6)
    assert results["gfd_digits_mean_term"].value == pytest.approx(expected.mean, rel=1e-6)
    terms = [results[f"gfd_digits_{term}_term"].value for term in ("mean", "covariance")]
    assert sum(terms) == pytest.approx(results["gfd_digits"].value)
    assert results["gfd_digits"].protocol == {
        "images": 148, "network": "digits", "network_version": digit_network().version,
        "resize": "area to 8x8", "reference": "rest", "reference_hash": rest.reference("").hash,
        "reference_images": 149, "ddof": 1, "guidance": 3.0, "seed": 5, "dimensions": 64,
    }  # fmt: skip
    (alone,) = frechet_results(half, rest.reference("rest"), "p", {}, "_a1_d4", parts=False)
    assert alone.name == "pfd_digits_a1_d4" and alone.value == results["gfd_digits"].value


def test_of_other_pictures_than_digits_the_embedded_network_says_that_it_says_little(digits):
    def results(images):
        found = seen(images)
        rows = frechet_results(found, found.reference("x"), "g", {})
        return [*rows, *set_results(found, found, "x", "g", {}), score_result(found, {})]

    assert not any("caution" in result.protocol for result in results(digits[:16]))
    colour = results(np.repeat(np.repeat(digits[:16], 2, axis=1), 3, axis=3))
    assert len(colour) > 9
    for result in colour:
        assert result.protocol["caution"].startswith("the network was trained on grey digits of 8x8 pixels")
    assert "says little about other images" in basis(colour[0])


def test_equal_sets_are_no_distance_apart(digits):
    whole = seen(digits)
    for result in frechet_results(whole, whole.reference("same"), "r", {}):
        assert result.value == pytest.approx(0, abs=1e-6)
    near = by_name(set_results(whole, whole, "same", "r", {}))
    assert near["r_precision_digits"].value == near["r_recall_digits"].value == 1
    assert near["r_coverage_digits"].value == 1 and near["rkd_digits"].value < 0
    assert near["rkd_digits"].protocol["subsets"] == 1 and near["rkd_digits"].protocol["subset_size"] == "all"
    score = score_result(whole, {"seed": 1})
    assert score.name == "class_score_digits" and 8 < score.value <= 10
    assert score.value == pytest.approx(class_score(whole.logits, splits=1).mean)
    assert score.protocol["splits"] == 1


def test_noise_is_far_and_small_sets_are_warned_of(digits, caplog, monkeypatch):
    noise = seen(np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8))
    real = seen(digits)
    with caplog.at_level(logging.WARNING):
        far = by_name(frechet_results(noise, real.reference("real"), "g", {}))
    assert "64 images in 64 dimensions: the covariance is singular" in caplog.text
    near = by_name(frechet_results(seen(digits[::2]), real.reference("real"), "g", {}))
    assert far["gfd_digits"].value > 20 * near["gfd_digits"].value
    beside = by_name(set_results(noise, real, "real", "g", {}))
    assert beside["precision_digits"].value < 0.2
    monkeypatch.setattr(feature_sets, "_WHOLE", 100)
    subsets = by_name(set_results(noise, real, "real", "g", {}))["gkd_digits"]
    assert subsets.protocol["subsets"] == 100 and subsets.protocol["subset_size"] == 64
    assert subsets.value == pytest.approx(beside["gkd_digits"].value, rel=0.05)


def test_features_of_another_network_are_refused(digits):
    other = dataclasses.replace(digit_network(), version="0")
    stranger = FeatureSet(other)
    stranger.update(digits[:5])
    with pytest.raises(ValueError, match=r"made by digits 0, area to 8x8.*make it again"):
        frechet_results(seen(digits), stranger.reference("theirs"), "g", {})
    with pytest.raises(ValueError, match="features of digits"):
        seen(digits[:5]).merge(stranger)
    foreign = dataclasses.replace(stranger.reference("theirs"), network="")  # an .npz file that does not say
    assert frechet_results(seen(digits), foreign, "g", {})
    with pytest.raises(ValueError, match="no images were seen"):
        FeatureSet(other).reference("x")
