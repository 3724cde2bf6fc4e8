"""Rows of different lengths: padding has no part in losses and samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.keys import example_keys
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.nn.masked_transformer import MaskedTransformer, masked_vocab
from jaxtok.nn.permuted_transformer import PermutedTransformer
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.binary_diffusion import BinaryDiffusion, DiffusionSettings
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked
from jaxtok.priors.masked_sampling import MaskedSettings
from jaxtok.priors.permuted import Permuted
from tests.filled import draw_like

SPACE, TOKENS = CodeSpace((2, 2)), 6
LENGTHS = jnp.array([6, 2, 4])


def autoregressive() -> Prior:
    network = LatentTransformer(SPACE, TOKENS, 1, 2, 4, causal=True, timed=False)
    settings = AutoregressiveSettings(guidance=0.0)
    return Prior(network, Autoregressive(SPACE, 0.0, settings))


def diffusion() -> Prior:
    network = LatentTransformer(SPACE, TOKENS, 1, 2, 4, causal=False, timed=True)
    return Prior(network, BinaryDiffusion(condition_dropout=0.0, settings=DiffusionSettings(2, guidance=0.0)))


def masked() -> Prior:
    network = MaskedTransformer(masked_vocab(SPACE, 0), TOKENS, 1, 2, 4, 16)
    return Prior(network, Masked(SPACE, condition_dropout=0.0, settings=MaskedSettings(3, guidance=0.0)))


PRIORS = {"autoregressive": autoregressive, "diffusion": diffusion, "masked": masked}


@functools.cache
def run(name):
    """Losses of a batch, with other codes in the padding, and of row 1 alone; samples, and those of row 1."""
    prior = PRIORS[name]()
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, TOKENS, 2)))
    mask = jnp.broadcast_to((jnp.arange(TOKENS) < LENGTHS[:, None])[..., None], codes.shape)
    params = draw_like(jax.eval_shape(prior.init, jax.random.key(0), prior.example(), None))
    keys = example_keys(jax.random.key(1), 3)

    @jax.jit
    def everything(params, codes, other):
        def loss(codes, rows):
            return prior.loss(params, Latents(codes[rows], mask=mask[rows]), None, keys[rows])[0]

        rows, one = jnp.arange(3), jnp.array([1])
        sample = lambda rows: prior.sample(params, None, keys[rows], batch=len(rows), lengths=LENGTHS[rows])
        return loss(codes, rows), loss(other, rows), loss(codes, one), sample(rows), sample(one)

    return everything(params, codes, jnp.where(mask, codes, 1 - codes)), mask


@pytest.mark.parametrize("name", PRIORS)
def test_what_padding_holds_has_no_effect(name):
    (loss, other, one, _, _), _ = run(name)
    assert np.isfinite(one)
    np.testing.assert_allclose(loss, other, rtol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_their_lengths_and_depend_on_their_row_alone(name):
    (_, _, _, drawn, one), mask = run(name)
    np.testing.assert_array_equal(drawn.mask, mask)
    assert not np.asarray(drawn.codes)[~np.asarray(mask)].any()
    np.testing.assert_array_equal(drawn.codes[1:2], one.codes)


def test_a_share_of_each_rows_own_tokens_is_masked():
    present = jnp.arange(TOKENS) < LENGTHS[:, None]
    uniform = jnp.asarray(np.random.default_rng(3).uniform(size=(3, TOKENS)), jnp.float32)
    found = np.asarray(masked().method.draw_mask(jnp.full(3, 0.5), uniform, present))
    whole = np.asarray(masked().method.draw_mask(jnp.zeros(3), uniform, present))
    assert not found[~np.asarray(present)].any() and not whole[~np.asarray(present)].any()
    assert (found.sum(1) >= 1).all() and (whole.sum(1) == LENGTHS).all()


def test_a_network_without_lengths_says_so():
    network = PermutedTransformer(masked_vocab(SPACE, 3), TOKENS, 1, 2, 4, 16)
    prior = Prior(network, Permuted(SPACE))
    with pytest.raises(
        ValueError, match="PermutedTransformer samples 6 tokens of every row; leave out lengths"
    ):
        prior.sample({}, None, jax.random.key(0), batch=3, lengths=LENGTHS)
