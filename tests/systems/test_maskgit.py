import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from jaxtok.priors.masked import MaskedSettings
from jaxtok.systems.image.image_system import ImageSystem
from jaxtok.systems.image.maskgit import PRIORS, MaskGIT


def test_the_parts_of_the_tiny_size_fit_together():
    model = MaskGIT.tiny()
    images, labels = jnp.zeros((2, 8, 8, 1), jnp.uint8), jnp.asarray([0, 9])

    def everything(key):
        variables = model.tokenizer().init({"params": key}, images)
        latents, condition = model.encode(variables, images), model.class_condition(labels)
        drawn = {}
        for name in PRIORS:
            prior = model.prior_named(name)
            drawn[name] = prior.sample(prior.init(key, latents, condition), condition, key).codes
        return latents.codes, model.decode(variables, latents), drawn

    codes, decoded, drawn = jax.eval_shape(everything, jax.random.key(0))
    assert codes.shape == (2, 16, 1) and decoded.shape == images.shape
    assert set(drawn) == set(PRIORS) and all(sample.shape == codes.shape for sample in drawn.values())


def test_a_trained_system_draws_images():
    """`codec` is the size of this system's tokenizer, not what its priors read of it."""
    model, images, key = MaskGIT.tiny(), jnp.zeros((1, 8, 8, 1), jnp.uint8), jax.random.key(0)

    def draw(key):
        variables = model.tokenizer().init({"params": key}, images)
        latents, condition = model.encode(variables, images), model.class_condition(jnp.asarray([3]))
        params = model.masked().init(key, latents, condition)
        system = ImageSystem(model, {"tokenizer": variables, "masked": {"params": params}})
        given = (params, {"tokenizer": variables}, (jnp.asarray([3]),), key, None)
        return system._sampler("masked", model.settings)(*given)

    assert jax.eval_shape(draw, key).codes.shape == (1, 16, 1)


def test_no_class_is_the_number_of_classes_for_both_priors():
    condition = MaskGIT.tiny().class_condition(jnp.asarray([3]))
    assert condition.unconditional().features.tolist() == [10]


def test_published_sizes_train_as_published():
    small, large = MaskGIT.imagenet_256(), MaskGIT.imagenet_512()
    assert (small.tokens, large.tokens, small.space.size) == (256, 1024, 1024)
    assert small.settings == large.settings == MaskedSettings(12, "cosine", guidance=0.0)
    rule = small.masked().rule
    assert (rule.schedule, rule.unmasked_weight, rule.weights) == ("cosine", 0.0, "sample")
    assert rule.condition_dropout == 0


def test_the_published_size_has_the_published_number_of_parameters():
    shapes = MaskGIT.imagenet_256().shapes()
    parts = [shapes["tokenizer"], shapes["masked"]]
    # 227 M of both together are reported; the heads differ by 0.4 M.
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parts)) == pytest.approx(227e6, rel=2e-3)


def test_what_does_not_fit_is_refused():
    model = MaskGIT.tiny()
    with pytest.raises(ValueError, match=r"guidance=3\.0 needs rows that train without their class"):
        dataclasses.replace(model, settings=MaskedSettings(guidance=3.0))
    with pytest.raises(ValueError, match="prior 'diffusion'; choose one of"):
        model.prior_named("diffusion")
