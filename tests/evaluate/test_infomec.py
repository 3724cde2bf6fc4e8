import numpy as np
import pytest

from jaxtok.evaluate import infomec as measure
from jaxtok.evaluate.dci import completeness, dci, disentanglement
from jaxtok.evaluate.infomec import infomec
from jaxtok.weights import read_tensors

FIRST, SECOND = np.tile([0, 0, 1, 1], 25), np.tile([0, 1, 0, 1], 25)
SOURCES = np.stack([FIRST, SECOND], axis=1)


def information(*latents):
    return measure.normalized_information(SOURCES, np.stack(latents, axis=1), discrete=True)


def test_fixtures_of_the_sheet():
    exact = information(FIRST, SECOND)
    np.testing.assert_allclose(exact, np.eye(2), atol=1e-9)
    assert measure.modularity(exact) == measure.compactness(exact) == pytest.approx(1, abs=1e-9)

    copied = information(FIRST, SECOND, FIRST, SECOND)
    np.testing.assert_allclose(measure.modularity(copied), 1, atol=1e-9)
    np.testing.assert_allclose(measure.compactness(copied), 1 / 3, atol=1e-9)

    mixed = information(FIRST, SECOND, 2 * FIRST + SECOND)
    np.testing.assert_allclose(mixed, [[1, 0, 1], [0, 1, 1]], atol=1e-9)
    np.testing.assert_allclose(measure.modularity(mixed), 0.6666666667, atol=1e-9)
    np.testing.assert_allclose(measure.compactness(mixed), 0.25, atol=1e-9)

    flipped = np.where(np.arange(100) < 20, 1 - FIRST, FIRST)
    weak = information(flipped, SECOND)
    np.testing.assert_allclose(weak[0, 0], 0.2780719051, atol=1e-9)
    assert measure.modularity(weak) == measure.compactness(weak) == pytest.approx(1, abs=1e-9)


def test_what_no_latent_knows_is_left_out():
    # The second latent, their exclusive or, knows nothing about either source, and nobody knows the second.
    found = infomec(SOURCES, np.stack([FIRST, FIRST ^ SECOND], axis=1), discrete=True)
    np.testing.assert_allclose(found.information, [[1, 0], [0, 0]], atol=1e-12)
    assert found.modularity == found.compactness == 1
    assert measure.modularity(np.zeros((2, 3))) == measure.compactness(np.zeros((2, 3))) == 0
    assert measure.compactness(np.array([[0.4], [0.2]])) == 1  # a single latent


def test_order_and_constant_latents_do_not_matter():
    rng = np.random.default_rng(0)
    sources = rng.integers(0, 3, (200, 2))
    latents = np.stack([sources[:, 0], sources.sum(axis=1), sources[:, 1] ^ 1, np.zeros(200, int)], axis=1)
    whole, turned = (
        infomec(sources, latents[:, order], discrete=True) for order in ([0, 1, 2, 3], [3, 2, 0, 1])
    )
    assert whole.active.tolist() == [True, True, True, False]
    for name in ("modularity", "compactness", "explicitness"):
        np.testing.assert_allclose(getattr(whole, name), getattr(turned, name), atol=1e-6)
    assert 0.99 < whole.explicitness <= 1 and 0 < whole.modularity < 1
    results = {result.name: result for result in whole.results(split="eval")}
    assert results["infom"].value == whole.modularity and results["active_latents"].value == 3
    assert results["infoe"].protocol["samples"] == 200 and results["infoe"].protocol["split"] == "eval"


def test_explicitness_of_noise_is_none():
    rng = np.random.default_rng(1)
    sources, latents = rng.integers(0, 2, (2000, 2)), rng.normal(size=(2000, 3))
    assert measure.explicitness(sources, latents, discrete=False).max() < 0.01
    assert measure.explicitness_of_values(sources, latents).max() < 0.01
    np.testing.assert_allclose(measure.explicitness_of_values(latents, latents @ rng.normal(size=(3, 3))), 1)


def test_rules_of_active_latents():
    rng = np.random.default_rng(2)
    latents = rng.uniform(-1, 1, (500, 3)) * np.array([1.0, 0.11, 0.04])

    def active(rule, discrete=False):
        return measure.active_latents(latents, discrete=discrete, rule=rule).tolist()

    assert active("published") == [True, True, False]
    assert active("published", discrete=True) == [True, True, True]
    assert active("training") == [True, False, False]
    assert active("tripod")[::2] == [True, False] and active("tripod", discrete=True) == [True, True, False]
    with pytest.raises(ValueError, match="choose 'published'"):
        active("none")


def test_wrong_shapes_and_constant_sources_are_refused():
    with pytest.raises(ValueError, match="same B"):
        infomec(SOURCES, np.zeros((99, 2)), discrete=True)
    with pytest.raises(ValueError, match=r"sources \[1\] never change"):
        infomec(np.stack([FIRST, 0 * FIRST], axis=1), SOURCES, discrete=True)


def test_dci():
    one_each = np.eye(3) * [0.5, 1, 2]
    assert disentanglement(one_each) == completeness(one_each) == pytest.approx(1)
    assert disentanglement(np.ones((3, 4))) == pytest.approx(0, abs=1e-12)
    # Both latents know the first source only: nothing is mixed, but the source is spread over two of three.
    spread = np.array([[0.5, 0], [0.5, 0], [0, 1.0]])
    assert disentanglement(spread) == pytest.approx(1)
    np.testing.assert_allclose(completeness(spread), 1 - 0.5 * np.log(2) / np.log(3))
    found = dci(SOURCES, SOURCES, trees=20)
    assert found.informativeness == 1 and min(found.disentanglement, found.completeness) > 0.9
    assert {r.name for r in found.results()} == {
        f"dci_{n}" for n in ("disentanglement", "completeness", "informativeness")
    }
    with pytest.raises(ValueError, match="source 0 is always"):
        dci(0 * SOURCES, SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize(("system", "active"), [("qlae", "published"), ("tripod", "tripod")])
def test_equals_the_official_code(shared, system, active, kind):
    tensors, _ = read_tensors(shared(f"goldens/{system}.safetensors"))
    recorded = {
        name.removeprefix(f"io.metric.{kind}."): value
        for name, value in tensors.items()
        if name.startswith(f"io.metric.{kind}.")
    }
    latents = tensors[f"io.metric.latents_{kind}"]
    found = infomec(tensors["io.metric.sources"], latents, discrete=kind == "discrete", active=active)
    # The estimator of continuous information adds noise, and Tripod's code does not fix its seed.
    noise = 1e-4 if (system, kind) == ("tripod", "continuous") else 1e-9
    np.testing.assert_array_equal(found.active, recorded["active_latents"])
    np.testing.assert_allclose(found.information, recorded["nmi"], atol=noise)
    np.testing.assert_allclose(found.modularity, recorded["infom"], atol=noise)
    np.testing.assert_allclose(found.compactness, recorded["infoc"], atol=noise)
    np.testing.assert_allclose(found.explicitness, recorded["infoe"], atol=1e-3)
