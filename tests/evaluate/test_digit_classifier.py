import numpy as np
import pytest

from jaxtok.data.embedded import Digits
from jaxtok.evaluate.digit_classifier import digit_classifier
from jaxtok.evaluate.resizing import area_resize


@pytest.fixture(scope="module")
def held_out():
    source = Digits().open("eval")
    records = [source[index] for index in range(len(source))]
    return np.stack([record["image"] for record in records]), np.array(
        [record["label"] for record in records]
    )


def test_scorer_is_good_on_real_digits_and_says_so(held_out):
    scorer = digit_classifier()
    assert scorer.real_accuracy == scorer.accuracy(*held_out) > 0.97
    result = scorer.result(*held_out, guidance=2.0)
    assert result.name == "class_accuracy_digits_svc"
    assert result.protocol["images"] == scorer.real_count == len(held_out[0])
    assert result.protocol["guidance"] == 2.0
    assert result.protocol["scorer_accuracy_on_real"] == pytest.approx(scorer.real_accuracy, abs=1e-6)


def test_wrong_captions_and_noise_are_noticed(held_out):
    images, labels = held_out
    scorer = digit_classifier()
    assert scorer.accuracy(images, (labels + 1) % 10) < 0.02
    noise = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    assert scorer.accuracy(noise, labels) < 0.25


def test_size_and_channels_do_not_matter(held_out):
    images, _ = held_out
    scorer = digit_classifier()
    large = np.repeat(images.repeat(3, axis=1).repeat(3, axis=2), 3, axis=3)
    np.testing.assert_array_equal(scorer.predict(large), scorer.predict(images))


def test_area_resize():
    image = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 1)).astype(np.uint8)
    blocks = image.reshape(2, 3, 2, 3, 3, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(area_resize(image, 3), blocks)
    line = np.array([0.0, 3.0, 6.0]).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(
        area_resize(line, 2)[0, 0, :, 0], [1.0, 5.0]
    )  # (0 + 3/2) / 1.5, (3/2 + 6) / 1.5
    np.testing.assert_allclose(area_resize(image, 5).mean(axis=(1, 2)), image.mean(axis=(1, 2)))


def test_bad_input_is_named():
    scorer = digit_classifier()
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="one label per image"):
        scorer.accuracy(images, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="unknown ones cannot count"):
        scorer.accuracy(images, np.array([-1, 3]))
