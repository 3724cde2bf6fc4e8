import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.prefix_transformer import BytePrefix, ClassPrefix, PrefixTransformer, TextPrefix
from jaxtok.nn.text import ByteEncoder
from tests.filled import filled, normal

BATCH, GRID, TEXT = 2, (2, 3), 3
TOKENS = GRID[0] * GRID[1]
SPACE = CodeSpace((5,))
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 5, (BATCH, TOKENS, 1)), jnp.int32)
# Padding on the left, and on the right, where the last token of the condition is none.
MASK = jnp.asarray([[False, True, True], [True, True, False]])
NETWORK = PrefixTransformer(SPACE, GRID, 2, 2, 8, 12)
CLASSES, WORDS = ClassPrefix(3, 16), TextPrefix(TEXT, 6, 16)
CAPTIONS = BytePrefix(ByteEncoder(layers=1, heads=2, head_dim=8), 16)


def captions(*texts, length=TEXT):
    ids, mask = byte_ids(texts, length)
    return CAPTIONS.condition(jnp.asarray(ids), jnp.asarray(mask))


NETWORKS = {
    "class": (NETWORK.clone(conditioner=CLASSES), CLASSES.condition(jnp.asarray([0, 2]))),
    "text": (NETWORK.clone(conditioner=WORDS), WORDS.condition(normal(BATCH, TEXT, 6), MASK)),
    "caption": (NETWORK.clone(conditioner=CAPTIONS), captions("one", "a")),
    "none": (NETWORK, None),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    network, condition = NETWORKS[request.param]
    variables = filled(network, CODES, condition)
    apply = jax.jit(network.apply)
    return network, condition, variables, apply, np.asarray(apply(variables, CODES, condition))


def test_cached_steps_give_the_logits_of_the_whole_sequence(case):
    network, condition, variables, _, whole = case
    before = jnp.concatenate([jnp.full_like(CODES[:, :1], 4), CODES[:, :-1]], axis=1)

    @jax.jit
    def run(variables):
        cache = network.apply(variables, condition, TOKENS, BATCH, method="start")
        found, first = [], 0
        for size in (1, 5):
            positions = jnp.broadcast_to(jnp.arange(first, first + size), (BATCH, size))
            inputs = before[:, first : first + size]
            logits, cache = network.apply(variables, cache, inputs, positions, method="step")
            found.append(logits)
            first += size
        return jnp.concatenate(found, axis=1), cache.length

    logits, length = run(variables)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    assert length.tolist() == [TOKENS] * BATCH and logits.dtype == jnp.float32


def test_no_token_sees_itself_or_what_comes_after(case):
    _, condition, variables, apply, whole = case
    logits = apply(variables, CODES.at[:, 2].set((CODES[:, 2] + 1) % 5), condition)
    np.testing.assert_array_equal(logits[:, :3], whole[:, :3])
    assert np.abs(logits[:, 3] - whole[:, 3]).max() > 1e-3


def test_a_token_knows_its_column_and_its_row():
    """The axes rotate different channels: the same codes on a grid of another shape are another picture."""
    variables = filled(NETWORK, CODES)
    a, b = (jax.jit(NETWORK.clone(grid=grid).apply)(variables, CODES) for grid in ((2, 3), (3, 2)))
    np.testing.assert_allclose(a[:, :3], b[:, :3], atol=1e-6)  # (0, 0) and (0, 1) are the same in both
    assert np.abs(a[:, 4] - b[:, 4]).max() > 1e-4


def test_padding_says_nothing_and_no_text_replaces_all_of_it():
    network, condition = NETWORKS["text"]
    variables = filled(network, CODES, condition)
    apply = jax.jit(network.apply)
    logits = apply(variables, CODES, condition)
    text = jnp.where(MASK[..., None], condition.features["text"], 9.0)
    # The last token is where the first code is read off, whether it is padding or not.
    text = text.at[1, -1].set(condition.features["text"][1, -1])
    np.testing.assert_allclose(apply(variables, CODES, WORDS.condition(text, MASK)), logits, atol=1e-5)
    other = WORDS.condition(normal(BATCH, TEXT, 6, seed=5), MASK)
    null = apply(variables, CODES, condition.unconditional())
    np.testing.assert_array_equal(apply(variables, CODES, other.unconditional()), null)
    np.testing.assert_array_equal(
        apply(variables, CODES, condition.select(jnp.asarray([True, False]))),
        jnp.concatenate([null[:1], logits[1:]]),
    )


def test_a_caption_is_what_its_bytes_are_and_not_how_far_it_is_padded():
    network, condition = NETWORKS["caption"]
    variables = filled(network, CODES, condition)
    apply = jax.jit(network.apply)
    logits = apply(variables, CODES, condition)
    np.testing.assert_allclose(apply(variables, CODES, captions("one", "a", length=9)), logits, atol=1e-5)
    other = apply(variables, CODES, captions("one", "b"))
    np.testing.assert_array_equal(other[0], logits[0])
    assert np.abs(other[1] - logits[1]).max() > 1e-3
    null = apply(variables, CODES, condition.unconditional())
    np.testing.assert_allclose(null, apply(variables, CODES, captions("", "")), atol=1e-6)


def test_tokens_of_the_condition_have_no_place():
    """Their queries and keys are zero: they average what is before them, and order does not matter."""
    network = NETWORK.clone(conditioner=TextPrefix(TEXT, 6, 16), layers=1)
    text = normal(BATCH, TEXT, 6)
    condition, swapped = (WORDS.condition(x) for x in (text, text[:, jnp.asarray([1, 0, 2])]))
    variables = filled(network, CODES, condition)
    apply = jax.jit(network.apply)
    np.testing.assert_allclose(
        apply(variables, CODES, condition), apply(variables, CODES, swapped), atol=1e-5
    )


def test_a_fresh_network_gives_every_code_the_same_probability():
    network = NETWORK.clone(layers=1)
    logits = jax.jit(lambda key: network.init_with_output(key, CODES)[0])(jax.random.key(0))
    np.testing.assert_array_equal(logits, 0)


def test_what_does_not_fit_is_said():
    condition = NETWORKS["class"][1]
    with pytest.raises(ValueError, match="has no condition, but a condition was given"):
        jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), CODES, condition))
    with pytest.raises(ValueError, match="needs a condition, but no condition was given"):
        jax.eval_shape(lambda: NETWORKS["class"][0].init(jax.random.key(0), CODES))
    with pytest.raises(ValueError, match="head_dim=6 must divide by 4"):
        jax.eval_shape(lambda: NETWORK.clone(head_dim=6).init(jax.random.key(0), CODES))
    with pytest.raises(ValueError, match="needs `batch`"):
        jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), None, TOKENS, method="start"))
    assert dataclasses.is_dataclass(NETWORK) and NETWORK.tokens == TOKENS
