import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from jaxtok.priors.masked import MaskedSettings
from jaxtok.systems.image.maskgit import MaskGIT


def test_no_class_is_the_number_of_classes_for_both_priors():
    condition = MaskGIT.tiny().class_condition(jnp.asarray([3]))
    assert condition.unconditional().features.tolist() == [10]


def test_published_sizes_train_as_published():
    small, large = MaskGIT.imagenet_256(), MaskGIT.imagenet_512()
    assert (small.tokens, large.tokens, small.space.size) == (256, 1024, 1024)
    assert small.settings == large.settings == MaskedSettings(12, "cosine", guidance=0.0)
    method = small.masked().method
    assert (method.schedule, method.unmasked_weight, method.weights) == ("cosine", 0.0, "sample")
    assert method.condition_dropout == 0


def test_the_published_size_has_the_published_number_of_parameters():
    shapes = MaskGIT.imagenet_256().shapes()
    parts = [shapes["tokenizer"], shapes["masked"]]
    # 227 M of both together are reported; the heads differ by 0.4 M.
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parts)) == pytest.approx(227e6, rel=2e-3)


def test_what_does_not_fit_is_refused():
    model = MaskGIT.tiny()
    with pytest.raises(ValueError, match=r"guidance=3\.0 needs rows that train without their class"):
        dataclasses.replace(model, settings=MaskedSettings(guidance=3.0))
