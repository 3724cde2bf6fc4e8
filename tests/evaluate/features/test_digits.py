"""The embedded feature network, and what every feature network does."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtok.evaluate.digit_classifier import real_digits
from jaxtok.evaluate.features.digits import digit_network
from jaxtok.evaluate.features.network import FeatureNetwork, Features, weights_version
from jaxtok.losses import embedded

# Of the weights that are part of the package: whoever changes them changes every number made with them.
VERSION = "05bfafa73fe6f88f"


@pytest.fixture(scope="module")
def digits():
    return real_digits("eval")


def test_the_version_is_that_of_the_weights():
    network = digit_network()
    assert network.version == VERSION and network.identity == f"digits {VERSION}, area to 8x8"
    changed = jax.tree.map(lambda leaf: leaf * np.float32(1.0000001), network.variables)
    assert weights_version(changed) != VERSION
    assert network.protocol == {
        "network": "digits", "network_version": VERSION, "resize": "area to 8x8"
    }  # fmt: skip


def test_names_never_claim_to_be_inceptions():
    network = digit_network()
    titles = [network.title("frechet", prefix) for prefix in "rgp"]
    assert titles == ["rfd_digits", "gfd_digits", "pfd_digits"]
    assert network.title("spatial", "g") == "sfd_digits" and network.title("spatial", "r") == "rsfd_digits"
    assert network.title("kernel", "g") == "gkd_digits" and network.title("score") == "class_score_digits"
    assert network.title("precision") == "precision_digits"


def test_features_know_the_digits_at_any_size_and_batch(digits):
    images, labels = digits
    network = digit_network()
    found = network(images)
    assert [leaf.shape for leaf in found] == [(297, 64), (297, 112), (297, 10)]
    assert np.mean(found.logits.argmax(1) == labels) > 0.95
    enlarged = network(images[:5].repeat(3, 1).repeat(3, 2))
    for ours, other in zip(enlarged, found):
        np.testing.assert_allclose(ours, other[:5], atol=1e-4)
    apart = dataclasses.replace(network, batch=5)(images[:7])
    np.testing.assert_allclose(apart.pooled, found.pooled[:7], atol=1e-4)


def test_channels_are_seen_one_by_one(digits):
    network, images = digit_network(), digits[0]
    rgb = np.concatenate([images[:4], images[4:8], images[8:12]], axis=-1)
    found, single = network(rgb), network(images[:12])
    np.testing.assert_allclose(found.pooled.reshape(4, 3, 64)[:, 1], single.pooled[4:8], atol=1e-4)
    np.testing.assert_allclose(found.logits, single.logits.reshape(3, 4, 10).mean(0), atol=1e-4)


def test_only_pictures_have_features():
    network = digit_network()
    for images in (np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 2), np.uint8)):
        with pytest.raises(ValueError, match="takes uint8"):
            network(images)
    assert [leaf.shape[0] for leaf in network(np.zeros((0, 8, 8, 1), np.uint8))] == [0, 0, 0]


@pytest.mark.slow
def test_the_weights_are_what_their_recipe_makes(digits):
    """Training again gives a network that agrees but for rounding, which 200 steps enlarge."""
    images = digits[0][:100]
    again = embedded.train()
    network = digit_network()
    other = FeatureNetwork("again", "", network.side, network.method, network.apply, again)
    found: tuple[Features, Features] = network(images), other(images)
    agree = np.mean(found[0].logits.argmax(1) == found[1].logits.argmax(1))
    assert agree > 0.97
    correlation = np.corrcoef(found[0].pooled.ravel(), found[1].pooled.ravel())[0, 1]
    assert correlation > 0.95
