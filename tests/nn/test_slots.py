import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.nn.slots import SlotEmbedding, head_width, log_likelihood, slot_logits
from tests.filled import filled, normal

SPACES = [CodeSpace.binary(3), CodeSpace((3, 2, 4)), CodeSpace((5,))]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: str(s.levels))
def test_the_probabilities_of_all_tokens_sum_to_one(space):
    codes = np.array(list(itertools.product(*map(range, space.levels))), np.int32)
    logits = 3 * normal(head_width(space))

    @jax.jit
    def both(logits):
        per_slot = log_likelihood(jnp.broadcast_to(logits, (len(codes), logits.size)), codes, space)
        return per_slot, [jax.nn.log_softmax(slot) for slot in slot_logits(logits, space)]

    per_slot, tables = jax.tree.map(np.asarray, both(logits))
    assert per_slot.shape == codes.shape and per_slot.dtype == np.float32
    assert np.exp(per_slot.sum(-1)).sum() == pytest.approx(1, abs=1e-5)
    for q, table in enumerate(tables):
        assert table.shape == (space.levels[q],)
        np.testing.assert_allclose(per_slot[:, q], table[codes[:, q]], atol=1e-5)


def test_extreme_bit_logits_stay_finite():
    logits = jnp.array([1e4, -1e4], jnp.float32)
    space = CodeSpace.binary(2)
    assert log_likelihood(logits, jnp.array([1, 0]), space).tolist() == [0, 0]
    assert log_likelihood(logits, jnp.array([0, 1]), space).tolist() == [-1e4, -1e4]


def test_embeddings_add_up_over_slots():
    codes = jnp.asarray([[[2, 1], [0, 0]]])
    embedding = SlotEmbedding(CodeSpace((3, 2)), 4)
    variables = filled(embedding, codes)
    table = np.asarray(variables["params"]["table"])
    assert table.shape == (5, 4)
    embedded = jax.jit(embedding.apply)(variables, codes)
    np.testing.assert_allclose(embedded[0], [table[2] + table[4], table[0] + table[3]], rtol=1e-6)


def test_bits_are_an_affine_map_and_may_be_floats():
    bits = np.array([[[1, 0, 1]]])
    embedding = SlotEmbedding(CodeSpace.binary(3), 4)
    variables = filled(embedding, jnp.asarray(bits))
    kernel, bias = (np.asarray(variables["params"]["bits"][name]) for name in ("kernel", "bias"))
    embed = jax.jit(embedding.apply)
    np.testing.assert_allclose(embed(variables, bits)[0, 0], kernel[0] + kernel[2] + bias, rtol=1e-5)
    np.testing.assert_allclose(
        embed(variables, 0.5 * bits)[0, 0], 0.5 * (kernel[0] + kernel[2]) + bias, rtol=1e-5
    )
