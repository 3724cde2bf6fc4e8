import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.perturbed import code_vectors, has_neighbours, parse_perturbation, perturbed
from jaxtok.systems.image.llamagen import LlamaGen
from jaxtok.systems.image.var import VAR
from tests.small_system import SMALL, random_like

SPACE = CodeSpace((4, 8))


def codes_and_vectors():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(4, size=(20, 30)), rng.integers(8, size=(20, 30))], axis=-1)
    return codes.astype(np.int32), jnp.asarray(rng.normal(size=(32, 3)), jnp.float32)


def test_replacements_are_near_and_as_frequent_as_told():
    codes, vectors = codes_and_vectors()
    change = jax.jit(perturbed, static_argnums=1, static_argnames=("alpha", "delta"))
    wrong = np.asarray(change(codes, SPACE, vectors, jax.random.key(0), alpha=0.5, delta=4))
    before, after = SPACE.join(codes), SPACE.join(wrong)
    distance = np.sum(np.square(np.asarray(vectors)[:, None] - np.asarray(vectors)), axis=-1)
    nearest = np.argsort(distance, axis=1)[:, :4]
    assert (nearest[before] == after[..., None]).any(-1).all()
    assert np.mean(before != after) == pytest.approx(0.5 * 3 / 4, abs=0.06)
    for alpha, delta in ((0.0, 4), (1.0, 1)):
        same = perturbed(codes, SPACE, vectors, jax.random.key(0), alpha=alpha, delta=delta)
        np.testing.assert_array_equal(same, codes)


def test_vectors_of_codes():
    model = LlamaGen.tiny()
    variables = random_like(model.shapes()["tokenizer"])
    vectors, metric = code_vectors(model.tokenizer(), variables)
    assert vectors.shape == (model.codes, model.code_width) and metric == "cosine"
    # Bits have no codebook: what the decoder is given of them.
    variables = random_like(SMALL.shapes()["tokenizer"])
    vectors, metric = code_vectors(SMALL.tokenizer(), variables)
    assert len(vectors) == 16 and metric == "euclidean"
    bits = SMALL.space.split(np.array([5]))
    embedded = SMALL.tokenizer().apply(variables, jnp.asarray(bits)[None], method="embed")[0, 0]
    np.testing.assert_allclose(vectors[5], embedded, atol=1e-6)
    assert not has_neighbours(VAR.tiny().tokenizer())  # several scales make a value


def test_settings_as_text():
    assert parse_perturbation("0.5:16") == (0.5, 16)
    for text in ("0.5", "a:3", "1.5:3", "0.5:0", "0.5:1.5"):
        with pytest.raises(ValueError, match=f"perturbation '{text}'"):
            parse_perturbation(text)
