import dataclasses

import jax
import jax.numpy as jnp
import pytest

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


def test_no_class_is_the_number_of_classes_for_both_priors():
    condition = MaskGIT.tiny().class_condition(jnp.asarray([3]))
    assert condition.unconditional().features.tolist() == [10]


def test_parts_that_do_not_fit_are_refused():
    model = MaskGIT.tiny()
    with pytest.raises(ValueError, match="the generator models 8 tokens of levels"):
        dataclasses.replace(model, generator=dataclasses.replace(model.generator, tokens=8))
    with pytest.raises(ValueError, match="prior 'diffusion'; choose one of"):
        model.prior_named("diffusion")
