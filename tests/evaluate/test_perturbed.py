import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.perturbed import code_vectors, has_neighbours, parse_perturbation, perturbed
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.image.var import VAR
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from tests.small_system import random_like

SPACE = CodeSpace((4, 8))


def codes_and_vectors():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(4, size=(20, 30)), rng.integers(8, size=(20, 30))], axis=-1)
    return codes.astype(np.int32), jnp.asarray(rng.normal(size=(32, 3)), jnp.float32)


def test_replacements_are_near_and_as_frequent_as_asked_for():
    codes, vectors = codes_and_vectors()

    @jax.jit
    def change(codes):
        often = perturbed(codes, SPACE, vectors, jax.random.key(0), alpha=0.5, delta=4)
        return often, perturbed(codes, SPACE, vectors, jax.random.key(0), alpha=0.0, delta=4)

    wrong, same = map(np.asarray, change(codes))
    before, after = SPACE.join(codes), SPACE.join(wrong)
    distance = np.sum(np.square(np.asarray(vectors)[:, None] - np.asarray(vectors)), axis=-1)
    nearest = np.argsort(distance, axis=1)[:, :4]
    assert (nearest[before] == after[..., None]).any(-1).all()
    assert np.mean(before != after) == pytest.approx(0.5 * 3 / 4, abs=0.06)
    np.testing.assert_array_equal(same, codes)


def tokenizer_of(quantizer):
    """A tokenizer without encoder and decoder."""
    return ImageTokenizer(types.SimpleNamespace(tokens=4), quantizer, None, (8, 8))


def test_vectors_of_codes():
    quantizer = VectorQuantizer(codes=16, width=6, code_width=3, metric="cosine")
    shapes = jax.eval_shape(quantizer.init, jax.random.key(0), jnp.zeros((1, 4, 6)))
    variables = {"params": {"quantizer": random_like(shapes["params"])}}
    vectors, metric = code_vectors(tokenizer_of(quantizer), variables)
    np.testing.assert_array_equal(vectors, variables["params"]["quantizer"]["codebook"])
    assert vectors.shape == (16, 3) and metric == "cosine"
    # Other quantizers have no codebook: what the decoder is given of a code.
    quantizer = FSQ((3, 5))
    vectors, metric = code_vectors(tokenizer_of(quantizer), {})
    code = quantizer.space.split(jnp.array([7]))
    np.testing.assert_array_equal(vectors[7], quantizer.apply({}, code[None], method="decode")[0, 0])
    assert len(vectors) == 15 and metric == "euclidean"


def test_what_has_neighbours():
    assert has_neighbours(tokenizer_of(FSQ((3, 5))))
    assert not has_neighbours(tokenizer_of(FSQ((8,) * 6)))  # 2^18 codes
    assert not has_neighbours(VAR.tiny().tokenizer())  # several scales make a value


def test_settings_as_text():
    assert parse_perturbation("0.5:16") == (0.5, 16)
    for text in ("0.5", "a:3", "1.5:3", "0.5:0", "0.5:1.5"):
        with pytest.raises(ValueError, match=f"perturbation '{text}'"):
            parse_perturbation(text)
