import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Condition
from jaxtok.nn.conditioning import LayerwiseConditioner
from jaxtok.nn.masked_transformer import MaskedTransformer, masked_vocab
from jaxtok.nn.slots import head_width
from tests.filled import filled, normal

TOKENS, BATCH, CLASSES = 5, 2, 3
SPACE = CodeSpace((3, 4))
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 3, (BATCH, TOKENS, 2)), jnp.int32)
MASKED = jnp.asarray([[True, False, True, False, False], [False, False, False, False, True]])
BERT = MaskedTransformer(masked_vocab(SPACE, CLASSES), TOKENS, 2, 2, 4, 12, "bert", segments=2)
UNET = MaskedTransformer(masked_vocab(SPACE, CLASSES), TOKENS, 4, 2, 4, 12, "unet")
LABELS = BERT.class_condition(jnp.asarray([0, 2]))


@pytest.fixture(scope="module", params=[BERT, UNET], ids=["bert", "unet"])
def built(request):
    network = request.param
    variables = filled(network, CODES, LABELS, MASKED)
    return network, variables, jax.jit(network.apply)


def test_masked_tokens_are_not_read_and_every_other_one_is(built):
    _, variables, apply = built
    logits = np.asarray(apply(variables, CODES, LABELS, MASKED))
    assert logits.shape == (BATCH, TOKENS, head_width(SPACE)) and logits.dtype == np.float32
    hidden = jnp.where(MASKED[..., None], (CODES + 1) % 3, CODES)
    np.testing.assert_array_equal(apply(variables, hidden, LABELS, MASKED), logits)
    for token in range(TOKENS):
        other = apply(variables, CODES.at[1, token, 1].set((CODES[1, token, 1] + 1) % 4), LABELS, MASKED)
        changed = np.abs(np.asarray(other) - logits).max(axis=(1, 2))
        assert changed[0] == 0 and (changed[1] == 0) == bool(MASKED[1, token])


def test_tokens_know_their_place_and_the_class_is_read(built):
    _, variables, apply = built
    nothing = jnp.ones((BATCH, TOKENS), bool)
    logits = np.asarray(apply(variables, CODES, LABELS, nothing))
    assert np.abs(np.diff(logits, axis=1)).max(axis=-1).min() > 1e-3
    unconditional = np.asarray(apply(variables, CODES, LABELS.unconditional(), nothing))
    np.testing.assert_allclose(unconditional[0], unconditional[1], atol=1e-5)
    assert np.abs(unconditional - logits).max(axis=(1, 2)).min() > 1e-3


def test_no_class_is_an_entry_of_its_own():
    vocab = BERT.vocab
    ids = [vocab.id("class", 2), vocab.id("null"), vocab.id("mask")]
    assert ids == [10, 11, 7] and vocab.size == 12
    assert LABELS.null.features.tolist() == [CLASSES]
    variables = filled(BERT, CODES, LABELS, MASKED)
    table = variables["params"]["table"]
    moved = {
        "params": {
            **variables["params"],
            "table": table.at[vocab.id("null")].set(table[vocab.id("class", 2)]),
        }
    }
    apply = jax.jit(BERT.apply)
    second = apply(moved, CODES, BERT.class_condition(jnp.asarray([2, 2])), MASKED)
    np.testing.assert_array_equal(apply(moved, CODES, LABELS.unconditional(), MASKED), second)


def test_given_tokens_are_known_and_the_others_asked_for():
    network, variables, apply = BERT, filled(BERT, CODES, LABELS, MASKED), jax.jit(BERT.apply)
    step = jax.jit(lambda v, *args: network.apply(v, *args, method="step"))
    start = jax.jit(lambda v, c: network.apply(v, c, TOKENS, method="start"))
    cache = start(variables, LABELS)
    positions = jnp.broadcast_to(jnp.asarray([3, 1, 0]), (BATCH, 3))
    given = jnp.asarray([[True, True, False], [True, False, True]])
    logits, cache = step(variables, cache, CODES[:, [3, 1, 0]], positions, given)
    known = np.array([[False, True, False, True, False], [True, False, False, True, False]])
    np.testing.assert_array_equal(cache.known, known)
    whole = np.asarray(apply(variables, CODES, LABELS, ~known))
    np.testing.assert_allclose(logits, whole[:, [3, 1, 0]], atol=1e-5)
    # Giving them in two steps is the same as in one, and what is not kept is masked again.
    rest = jnp.broadcast_to(jnp.asarray([2]), (BATCH, 1))
    logits, more = step(variables, cache, CODES[:, [2]], rest, None)
    assert more.known[:, 2].all() and more.known.sum() == 6
    kept = more.keep(jnp.broadcast_to(jnp.asarray([2, 3, 4]), (BATCH, 3)), jnp.asarray([3, 1]))
    np.testing.assert_array_equal(
        kept.known, [[False, False, True, True, False], [False, False, True, False, False]]
    )
    everything = jnp.broadcast_to(jnp.arange(TOKENS), (BATCH, TOKENS))
    asked, _ = step(variables, kept, CODES, everything, jnp.zeros((BATCH, TOKENS), bool))
    np.testing.assert_allclose(asked, apply(variables, CODES, LABELS, ~kept.known), atol=1e-5)


def test_a_text_stands_before_the_tokens_and_its_padding_is_not_seen():
    network = dataclasses.replace(
        BERT, vocab=masked_vocab(SPACE), conditioner=LayerwiseConditioner(), segments=0
    )
    mask = jnp.asarray([[True, True, False], [True, True, True]])
    features = normal(1, BATCH, 3, 6)
    condition = Condition(features, mask, batch_axis=1)
    variables, apply = filled(network, CODES, condition, MASKED), jax.jit(network.apply)
    logits = np.asarray(apply(variables, CODES, condition, MASKED))
    padded = dataclasses.replace(condition, features=features.at[:, 0, 2].set(9.0))
    np.testing.assert_array_equal(apply(variables, CODES, padded, MASKED), logits)
    changed = dataclasses.replace(condition, features=features.at[:, :, 1].set(9.0))
    assert np.abs(np.asarray(apply(variables, CODES, changed, MASKED)) - logits).max(axis=(1, 2)).min() > 1e-3


def test_a_network_without_condition_and_of_bits():
    space = CodeSpace.binary(3)
    network = MaskedTransformer(masked_vocab(space), TOKENS, 1, 1, 4, 8)
    bits = jnp.zeros((BATCH, TOKENS, 3), jnp.int32)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), bits, None, MASKED))
    assert shapes["params"]["positions"].shape == (TOKENS, 4) and shapes["params"]["table"].shape == (7, 4)
    out = jax.eval_shape(lambda v: network.apply(v, bits, None, MASKED), shapes)
    assert out.shape == (BATCH, TOKENS, 3)


@pytest.mark.parametrize(
    "network, arguments, message",
    [
        (BERT, (CODES, None, MASKED), "needs a condition, but no condition"),
        (
            dataclasses.replace(BERT, vocab=masked_vocab(SPACE)),
            (CODES, LABELS, MASKED),
            "has no condition, but a",
        ),
        (dataclasses.replace(BERT, form="gpt"), (CODES, LABELS, MASKED), "form='gpt'; choose"),
        (dataclasses.replace(UNET, segments=2), (CODES, LABELS, MASKED), "segments=2, but only form='bert'"),
        (dataclasses.replace(UNET, layers=3), (CODES, LABELS, MASKED), "layers=3 must be even"),
        (
            dataclasses.replace(BERT, conditioner=LayerwiseConditioner()),
            (CODES, LABELS, MASKED),
            "conditioner beside a range 'class'",
        ),
    ],
    ids=["missing", "superfluous", "form", "segments", "odd", "both"],
)
def test_what_does_not_fit_is_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), *arguments))


@pytest.mark.parametrize(
    "arguments, message", [((LABELS, TOKENS + 1), "capacity=6, but"), ((None, 0), "needs `batch`")]
)
def test_a_canvas_that_cannot_be_is_refused(arguments, message):
    variables = filled(BERT, CODES, LABELS, MASKED)
    with pytest.raises(ValueError, match=message):
        BERT.apply(variables, *arguments, method="start")
