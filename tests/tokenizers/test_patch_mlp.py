import jax
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.patch_mlp import PatchDecoder, PatchEncoder
from tests.filled import filled

TOKENIZER = ImageTokenizer(
    PatchEncoder(tokens=4, patch=4, width=6, hidden=8),
    VectorQuantizer(16, 6, learning="ema"),
    PatchDecoder(patch=4, hidden=8, channels=3),
    (8, 8),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


CHANGED = IMAGES.copy()
CHANGED[:, :4, 4:] = 255 - CHANGED[:, :4, 4:]  # the second patch


@pytest.fixture(scope="module")
def variables():
    return filled(TOKENIZER, IMAGES)


@pytest.fixture(scope="module")
def found(variables):
    """Everything that these tests look at, compiled together."""

    @jax.jit
    def run(variables):
        apply = lambda *args, **kwargs: TOKENIZER.apply(variables, *args, **kwargs)
        latents = apply(IMAGES, method="encode")
        state, key = variables["quantizer"], jax.random.key(1)
        return {
            "latents": latents,
            "x_hat": apply(IMAGES).x_hat,
            "decoded": apply(latents, method="decode"),
            "features": apply(IMAGES, method="features"),
            "other features": apply(CHANGED, method="features"),
            "k-means": apply(state, IMAGES, key, method="initialise_quantizer"),
        }

    return run(variables)


def test_shapes(found):
    assert isinstance(found["latents"], Latents) and found["latents"].codes.shape == (5, 4, 1)
    assert found["x_hat"].shape == IMAGES.shape
    np.testing.assert_allclose(found["decoded"], found["x_hat"], atol=1e-6)


def test_a_token_sees_its_patch_and_nothing_else(found):
    differs = np.abs(found["other features"] - found["features"]).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(differs, [False, True, False, False])


@pytest.mark.parametrize("size", [(8, 12), (6, 8), (4, 4)])
def test_another_size_than_there_are_tokens(variables, size):
    codes = np.zeros((1, 4, 1), np.int32)
    with pytest.raises(ValueError, match=f"4 patches of 4x4 do not make {size[0]}x{size[1]}"):
        jax.eval_shape(lambda v: TOKENIZER.apply(v, codes, size, method="decode"), variables)


def test_k_means_on_features(found):
    features = np.asarray(found["features"]).reshape(-1, 6)
    codebook = found["k-means"]["quantizer"]["codebook"]
    distance = np.linalg.norm(features[:, None] - codebook[None], axis=-1).min(axis=1)
    assert distance.mean() < 0.5 * np.linalg.norm(features - features.mean(0), axis=-1).mean()
