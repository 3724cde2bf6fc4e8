import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.run.evaluators.codes import CodeEvaluator, ComparisonEvaluator, even_usage, measure_codes
from jaxtok.systems.image.base import ImageSystem
from jaxtok.train.stage import TrainedStage

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Grey(ImageSystem):
    """Every pixel is a token: its grey level, whole or as a coarse and a fine half."""

    slots: int = 1

    @property
    def space(self):
        return CodeSpace((256,) if self.slots == 1 else (16, 16))

    def encode_images(self, variables: Any, images):
        pixels = images.reshape(len(images), -1, 1).astype(jnp.int32)
        return Latents(codes=pixels if self.slots == 1 else jnp.concatenate([pixels // 16, pixels % 16], -1))

    def decode_images(self, variables: Any, latents, size=None):
        codes = latents.codes if isinstance(latents, Latents) else latents
        scale = jnp.array([1] if self.slots == 1 else [16, 1])[: codes.shape[-1]]
        return (codes * scale).sum(-1).reshape(-1, 4, 4, 1) / 127.5 - 1


def trained(variables=None):
    def batches():
        yield {"image": IMAGES[:4], "valid": np.ones(4, bool)}
        yield {
            "image": np.concatenate([IMAGES[4:], IMAGES[:2]]),
            "valid": np.array([True, True, False, False]),
        }

    return TrainedStage(variables or {}, {}, batches, jax.random.key(0), False)


def by_name(results):
    assert len({result.name for result in results}) == len(results)
    return {result.name: result.value for result in results}


def test_a_lossless_model():
    results = CodeEvaluator(Grey(), 100).evaluate(trained())
    values = by_name(results)
    used = len(np.unique(IMAGES))
    assert values["mse"] == pytest.approx(0, abs=1e-12) and values["psnr"] > 60
    assert values["code_usage"] == used / 256 and values["dead_codes"] == 256 - used
    p = np.bincount(IMAGES.ravel(), minlength=256) / IMAGES.size
    perplexity = np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))
    assert values["code_perplexity"] == pytest.approx(perplexity)
    protocol = results[0].protocol
    assert protocol["images"] == 6 and protocol["tokens"] == 96
    assert protocol["usage_of_even_codes"] == even_usage(256, 96)


def test_prefixes_of_slots_are_decoded():
    values = by_name(CodeEvaluator(Grey(2), 100).evaluate(trained()))
    mse = np.mean(np.square((IMAGES % 16) / 127.5))
    assert values["psnr_prefix_1"] == pytest.approx(10 * np.log10(4 / mse), rel=1e-5)
    assert values["psnr_prefix_2"] == values["psnr"] > values["psnr_prefix_1"]


@pytest.mark.parametrize("images", [1, 3, 4, 5])
def test_only_so_many_images_are_measured(images):
    found = measure_codes(Grey(2), trained(), {}, images)
    assert found.statistics.images == images and found.tokens == 16 * images
    np.testing.assert_allclose(found.mse[0], np.mean(np.square(IMAGES[:images] % 16 / 127.5)), rtol=1e-5)
    np.testing.assert_array_equal(found.restored, IMAGES[:images][:4])


def test_no_images():
    empty = dataclasses.replace(trained(), batches=lambda: iter(()))
    with pytest.raises(ValueError, match="no images to measure"):
        measure_codes(Grey(), empty, {}, 4)


def test_even_usage_is_what_even_codes_show():
    draws = np.random.default_rng(0).integers(0, 64, (2000, 100))
    seen = np.mean([len(np.unique(row)) / 64 for row in draws])
    assert even_usage(64, 100) == pytest.approx(seen, abs=0.005)
    assert even_usage(4096, 4752) == pytest.approx(0.687, abs=1e-3)  # the held-out digits


def test_comparison():
    history = {"usage": np.array([0.5, np.nan]), "perplexity": np.array([3.0, np.nan])}
    counts = {"a": np.eye(1, 256) + 1, "b": np.eye(1, 256)}
    both = trained({"params": counts})
    remembered = {"history": history}
    both = dataclasses.replace(both, frozen={"a": remembered, "b": remembered, "stack": {}})
    evaluator = ComparisonEvaluator((("a", Grey()), ("b", Grey())), (("stack", Grey(2)),), 6, 10, 0.6)
    values = by_name(evaluator.evaluate(both))
    assert values["training_usage_a"] == 1 and values["training_usage_b"] == 1 / 256
    assert values["training_perplexity_b"] == 1
    assert set(evaluator.figures(both)) == {"usage_over_training", "usage_and_error", "prefixes"}


def test_figures_of_one_quantizer():
    assert set(CodeEvaluator(Grey(), 6).figures(trained())) == {"reconstructions", "codes"}
