import jax
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.patch_mlp import PatchDecoder, PatchEncoder

TOKENIZER = ImageTokenizer(
    PatchEncoder(tokens=4, patch=4, width=6, hidden=8),
    VectorQuantizer(16, 6, learning="ema"),
    PatchDecoder(patch=4, hidden=8, channels=3),
    (8, 8),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def variables():
    return TOKENIZER.init(jax.random.key(0), IMAGES)


def test_shapes(variables):
    latents = TOKENIZER.apply(variables, IMAGES, method="encode")
    assert isinstance(latents, Latents) and latents.codes.shape == (5, 4, 1)
    out = TOKENIZER.apply(variables, IMAGES)
    assert out.x_hat.shape == IMAGES.shape
    np.testing.assert_allclose(TOKENIZER.apply(variables, latents, method="decode"), out.x_hat, atol=1e-6)


def test_a_token_sees_its_patch_and_nothing_else(variables):
    features = TOKENIZER.apply(variables, IMAGES, method="features")
    changed = IMAGES.copy()
    changed[:, :4, 4:] = 255 - changed[:, :4, 4:]  # the second patch
    differs = (
        np.abs(TOKENIZER.apply(variables, changed, method="features") - features).max(axis=(0, 2)) > 1e-6
    )
    np.testing.assert_array_equal(differs, [False, True, False, False])


@pytest.mark.parametrize("size", [(8, 12), (6, 8), (4, 4)])
def test_another_size_than_there_are_tokens(variables, size):
    codes = np.zeros((1, 4, 1), np.int32)
    with pytest.raises(ValueError, match=f"4 patches of 4x4 do not make {size[0]}x{size[1]}"):
        TOKENIZER.apply(variables, codes, size, method="decode")


def test_k_means_on_features(variables):
    state = TOKENIZER.apply(
        variables, variables["quantizer"], IMAGES, jax.random.key(1), method="initialise_quantizer"
    )
    features = TOKENIZER.apply(variables, IMAGES, method="features").reshape(-1, 6)
    codebook = state["quantizer"]["codebook"]
    distance = np.linalg.norm(features[:, None] - codebook[None], axis=-1).min(axis=1)
    assert distance.mean() < 0.5 * np.linalg.norm(features - features.mean(0), axis=-1).mean()
