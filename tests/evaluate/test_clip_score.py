import numpy as np
import pytest

from jaxtok.evaluate import clip_score as measure
from jaxtok.evaluate.clip_score import ClipScorer, clip_pixels, clip_r_precision, clip_score
from tests.nn.test_clip import TINY, random_variables, write_checkpoint


def test_scores_of_known_cosines():
    images = np.array([[1.0, 0], [3, 4], [1, 0]])
    texts = np.array([[2.0, 0], [0, 1], [-1, 0]])
    np.testing.assert_allclose(measure.cosines(images, texts), [1, 0.8, -1])
    np.testing.assert_allclose(clip_score(images, texts), 60)  # below zero counts as zero
    np.testing.assert_allclose(clip_score(images, texts, 2.5), 1.5)
    with pytest.raises(ValueError, match="no images"):
        clip_score(images[:0], texts[:0])


def test_r_precision():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(60, 8))
    captions = [f"text {i}" for i in range(60)]
    assert clip_r_precision(texts, texts, captions, distractors=59) == 1
    noise = rng.normal(size=(60, 8))
    assert clip_r_precision(noise, texts, captions, distractors=19) < 0.25
    # Copies of an image's own caption are no distractors; equal embeddings of others are ties, and wrong.
    doubled, twice = np.concatenate([texts, texts]), captions + captions
    assert clip_r_precision(doubled, doubled, twice, distractors=59) == 1
    assert clip_r_precision(texts, np.ones((60, 8)), captions, distractors=5) == 0
    with pytest.raises(ValueError, match="at least 61 different"):
        clip_r_precision(doubled, doubled, twice, distractors=60)


def test_pixels():
    rng = np.random.default_rng(0)
    square = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    mean, deviation = (
        np.array([0.48145466, 0.4578275, 0.40821073]),
        np.array([0.26862954, 0.26130258, 0.27577711]),
    )
    np.testing.assert_allclose(clip_pixels(square, 8), (square / 255 - mean) / deviation, atol=1e-6)
    wide = np.repeat(np.arange(12, dtype=np.uint8)[None, None, :, None] * 20, 6, axis=1)
    found = clip_pixels(wide, 6)
    assert found.shape == (1, 6, 6, 3) and found.dtype == np.float32
    np.testing.assert_allclose(
        found[0, 0, :, 0], (np.arange(3, 9) * 20 / 255 - mean[0]) / deviation[0], atol=1e-6
    )
    assert clip_pixels(wide, 9).shape == (1, 9, 9, 3)
    with pytest.raises(ValueError, match="4 channels"):
        clip_pixels(np.zeros((1, 8, 8, 4), np.uint8))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("clip-tiny")
    write_checkpoint(folder, TINY, random_variables(TINY))
    words = {f"w{i}": i for i in range(28)} | {"[begin]": 28, "[end]": 29}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[begin] $A [end]", special_tokens=[("[begin]", 28), ("[end]", 29)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return ClipScorer(folder, batch_size=4)


def test_a_model_scores_captions(scorer):
    images = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3)).astype(np.uint8)
    captions = [f"w{i} w{i + 1} " + "w3 " * 9 for i in range(6)]
    results = {r.name: r for r in scorer.results(captions, images, distractors=5, steps=8)}
    assert set(results) == {"clip_score_x100", "clip_score_x2.5", "clip_r_precision"}
    np.testing.assert_allclose(results["clip_score_x2.5"].value, results["clip_score_x100"].value / 40)
    image_features, text_features = scorer.embed_images(images), scorer.embed_texts(captions)
    assert image_features.shape == text_features.shape == (6, 10)
    np.testing.assert_allclose(results["clip_score_x100"].value, clip_score(image_features, text_features))
    # Filled-up batches change nothing.
    np.testing.assert_allclose(scorer.embed_images(images[2:]), image_features[2:], atol=1e-5)
    protocol = results["clip_r_precision"].protocol
    assert (
        protocol["distractors"] == 5 and protocol["steps"] == 8 and protocol["clip"].startswith("clip-tiny")
    )
    assert len(protocol["weights_hash"]) == 16
    assert {r.name for r in scorer.results(captions, images)} == {"clip_score_x100", "clip_score_x2.5"}
    with pytest.raises(ValueError, match="one caption per image"):
        scorer.results(captions[:3], images)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 60), (61, 37), (224, 224), (300, 225)])
def test_pixels_equal_transformers(size):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    processor = transformers.CLIPImageProcessorPil()
    expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])
    np.testing.assert_allclose(clip_pixels(image[None]), expected.transpose(0, 2, 3, 1), atol=1e-5)
