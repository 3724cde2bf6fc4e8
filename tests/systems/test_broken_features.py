"""What becomes of an encoder whose features are not finite: no code stands for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import NO_CODE, Latents
from jaxtok.run.trained import Trained
from jaxtok.systems.objectives import PriorObjective
from tests.small_system import SMALL, random_like, small_batch


@pytest.fixture(scope="module")
def broken():
    """A tokenizer one of whose weights overflowed."""
    variables = random_like(SMALL.shapes()["tokenizer"])
    kernel = np.array(variables["params"]["encoder"]["patch"]["kernel"])
    kernel[0, 0] = np.inf
    variables["params"]["encoder"]["patch"]["kernel"] = kernel
    return variables


def test_their_codes_are_none_and_their_values_nan(broken):
    images = small_batch()["image"]
    latents = jax.jit(SMALL.encode_images)(broken, images)
    assert np.all(latents.codes == NO_CODE) and np.all(np.isnan(latents.values))
    with pytest.raises(ValueError, match=r"not finite of images \[0, 1, 2.* of 8; its weights are damaged"):
        Trained(SMALL, {"tokenizer": broken}).encode(images)
    with pytest.raises(ValueError, match="-1 stands where the features of an encoder were not finite"):
        SMALL.space.pack(np.asarray(latents.codes))


def test_a_prior_has_no_loss_over_them():
    """The next check of the loop finds it; one token of one image is enough."""
    prior = SMALL.prior_named("autoregressive")
    codes = np.zeros((8, SMALL.tokens, SMALL.space.slots), np.int32)

    def encode(variables, batch):
        return Latents(codes=jnp.where(batch["image"][:, :3, :1, :1].reshape(8, 3, 1) > 200, NO_CODE, codes))

    objective = PriorObjective(prior, encode, SMALL.condition)
    example = prior.example(), SMALL.example_condition()
    params = random_like(jax.eval_shape(prior.init, jax.random.key(0), *example))
    batch, keys = (
        {**small_batch(), "image": np.zeros((8, 8, 8, 1), np.uint8)},
        jax.random.split(jax.random.key(0), 8),
    )

    @jax.jit
    def losses(batch):
        frozen = {"tokenizer": {}}
        loss = objective.loss({"params": params}, batch, frozen, keys, jnp.int32(0)).total
        return loss, objective.held_out({"params": params}, batch, frozen, keys)

    assert all(np.isfinite(loss) for loss in losses(batch))
    batch["image"][2, 1] = 255
    assert all(np.isnan(loss) for loss in losses(batch))
