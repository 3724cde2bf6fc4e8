"""What `Prior` itself checks and does, whatever its method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.priors.autoregressive import Autoregressive
from jaxtok.priors.contract import Prior, masked_mean

SPACE = CodeSpace((3, 2))


class Network:
    """Says only what its latents are."""

    space, tokens = SPACE, 4


PRIOR = Prior(Network(), Autoregressive(SPACE))
CODES = np.zeros((2, 4, 2), np.int32)
CONDITION = Condition(jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(
    "condition, arguments, message",
    [
        (None, {}, "needs `batch`"),
        (CONDITION, {"given": Latents(CODES)}, "codes and a mask"),
        (CONDITION, {"given": Latents(mask=CODES == 0)}, "codes and a mask"),
        (CONDITION, {"given": Latents(CODES[:, :3], mask=CODES[:, :3] == 0)}, r"models \[B, 4, 2\] codes"),
        (CONDITION, {"given": Latents(CODES[:1], mask=CODES[:1] == 0)}, "1 rows, the condition 2"),
        (
            CONDITION,
            {"given": Latents(CODES, mask=np.ones((2, 4), bool))},
            r"shape \(2, 4\), its codes \(2, 4, 2\)",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(condition, arguments, message):
    with pytest.raises(ValueError, match=message):
        PRIOR.sample({}, condition, jax.random.key(0), **arguments)


@pytest.mark.parametrize("latents", [Latents(CODES[..., :1]), Latents(values=CODES)])
def test_latents_of_another_space_are_refused(latents):
    with pytest.raises(ValueError, match=r"models \[B, 4, 2\] codes"):
        PRIOR.loss({}, latents, None, jax.random.key(0))


def test_a_prior_knows_its_latents():
    assert PRIOR.space == SPACE and PRIOR.tokens == 4


def test_a_masked_mean_counts_what_is_there():
    values = jnp.asarray([[1.0, 2.0], [3.0, 5.0]])
    assert masked_mean(values, None) == 2.75
    assert masked_mean(values, jnp.asarray([[True, False], [False, True]])) == 3.0
    assert masked_mean(values, jnp.asarray([[True], [False]])) == 1.5
    assert masked_mean(values, jnp.zeros((2, 2), bool)) == 0.0
