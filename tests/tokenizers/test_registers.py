import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.decoding.flow import FlowSettings
from jaxtok.quantize.fsq import FSQ
from jaxtok.tokenizers.flow_decoder import FlowDecoder
from jaxtok.tokenizers.flow_tokenizer import FlowTokenizer, TokenCorruption
from jaxtok.tokenizers.nested_dropout import prefix_mask
from jaxtok.tokenizers.registers import RegisterEncoder, RegisterShape, register_mask
from tests.filled import filled, normal

SHAPE, TOKENS, LEVELS = RegisterShape(2, 2, 8), 4, (4, 3)
DATA, T = normal(2, 4, 4, 3), jnp.asarray([0.3, 0.9])
TOKENIZER = FlowTokenizer(
    RegisterEncoder(SHAPE, TOKENS, (2, 2), 2, len(LEVELS)),
    FSQ(LEVELS),
    FlowDecoder(SHAPE, TOKENS, (2, 2), 2, 3, align_after=0, align_width=5, frequencies=4),
    (4, 4),
    "pow2",
    settings=FlowSettings(3, 2.0),
)


@pytest.fixture(scope="module")
def variables():
    return filled(TOKENIZER, DATA, x=DATA, t=T)


@pytest.fixture(scope="module")
def apply(variables):
    """Every call of the tokenizer that these tests need, compiled together."""
    keys = jax.random.split(jax.random.key(3), 2)
    conditioning = lambda m, values, kept=None, null=None: m.decoder.conditioning(values, kept, null)

    @jax.jit
    def run(variables):
        call = lambda *args, **kwargs: TOKENIZER.apply(variables, *args, **kwargs)
        codes = call(DATA, method="encode").codes
        eight = call(DATA, x=DATA, t=T, kept=jnp.full(2, TOKENS))
        some = lambda *kept: Latents(codes=codes, mask=jnp.asarray(kept)[None, :, None] & (codes >= 0))
        draw = lambda latents: call(latents, None, keys, method="decode")
        return {
            "all": call(DATA, x=DATA, t=T).features["velocity"],
            "kept": eight.features["velocity"],
            "train": call(DATA, True, keys, x=DATA, t=T),
            "alone": call(DATA[1:], True, keys[1:], x=DATA[1:], t=T[1:]),
            "drawn": draw(codes),
            "masked": draw(some(True, True, False, False)),
            "changed": draw(some(True, True, False, False).codes[:, :2]),
            "dropped": call(normal(2, 4, 2), prefix_mask(jnp.asarray([1, 1]), TOKENS), method=conditioning),
            "null": call(normal(2, 4, 2), None, jnp.asarray([True, False]), method=conditioning),
        }

    return run(variables)


def test_masks_say_who_sees_whom():
    assert register_mask(2, 2, "full") is None
    np.testing.assert_array_equal(register_mask(2, 2, "causal"), np.tri(4))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(register_mask(2, 2, "causal_last"), expected)
    with pytest.raises(ValueError, match="mask mode 'last'; choose"):
        register_mask(2, 2, "last")


def test_registers_do_not_see_later_ones_and_patches_see_none():
    encoder = RegisterEncoder(SHAPE, TOKENS, (2, 2), 2, 3)
    variables = filled(encoder, DATA)
    registers = variables["params"]["registers"]
    other = {**variables, "params": {**variables["params"], "registers": registers.at[2].add(1.0)}}
    for mask, same in (("causal_last", [True, True, False, False]), ("full", [False] * 4)):
        run = jax.jit(encoder.clone(mask=mask).apply)
        change = jnp.max(jnp.abs(run(variables, DATA) - run(other, DATA)), axis=(0, 2))
        np.testing.assert_array_equal(change < 1e-6, same, err_msg=mask)


def test_fewer_registers_say_the_same():
    encoder = RegisterEncoder(SHAPE, TOKENS, (2, 2), 2, 3)
    variables = filled(encoder, DATA)
    fewer = {**variables, "params": {**variables["params"]}}
    fewer["params"]["registers"] = variables["params"]["registers"][:2]
    shorter = jax.jit(encoder.clone(tokens=2).apply)(fewer, DATA)
    np.testing.assert_allclose(shorter, jax.jit(encoder.apply)(variables, DATA)[:, :2], atol=1e-5)


def test_all_tokens_kept_is_no_dropout(apply):
    np.testing.assert_allclose(apply["kept"], apply["all"], atol=1e-6)


def test_training_keeps_prefixes_by_example(apply):
    out, alone = apply["train"], apply["alone"]
    assert out.x_hat is None and out.features["alignment"].shape == (2, 4, 5)
    np.testing.assert_allclose(out.features["velocity"][1:], alone.features["velocity"], atol=1e-5)
    with pytest.raises(ValueError, match="train=True needs a key"):
        TOKENIZER.apply({}, DATA, True, x=DATA, t=T)


def test_any_prefix_decodes_and_what_is_masked_does_not_matter(apply):
    assert apply["drawn"].shape == DATA.shape and apply["drawn"].dtype == jnp.float32
    np.testing.assert_allclose(apply["masked"], apply["changed"], atol=1e-5)
    assert jnp.max(jnp.abs(apply["drawn"] - apply["masked"])) > 1e-2
    with pytest.raises(ValueError, match="5 tokens, but this decoder reads at most 4"):
        TOKENIZER.apply(filled(FSQ(LEVELS), normal(1, 1, 2)), jnp.zeros((1, 5, 2), int), method="decode")


def test_dropped_tokens_become_one_vector_and_nothing_another(apply, variables):
    decoder = variables["params"]["decoder"]
    for token in (1, 2, 3):
        np.testing.assert_array_equal(apply["dropped"][0, token], decoder["dropped"])
    assert jnp.any(apply["dropped"][0, 0] != decoder["dropped"])
    np.testing.assert_array_equal(apply["null"][0], jnp.tile(decoder["null"], (TOKENS, 1)))
    assert jnp.any(apply["null"][1] != decoder["null"])


def test_a_fresh_decoder_says_nothing():
    decoder = TOKENIZER.decoder
    fresh = jax.eval_shape(
        lambda: decoder.init(jax.random.key(0), DATA, T, normal(2, 4, 16), method="velocity")
    )
    assert fresh["params"]["stack"]["block"]["modulation"]["linear"]["kernel"].shape == (2, 16, 2 * 6 * 16)
    assert fresh["params"]["norm"]["modulation"]["linear"]["kernel"].shape == (16, 32)
    with pytest.raises(ValueError, match="align_after=2 must be a block index below layers=2"):
        filled(decoder.clone(align_after=2), DATA, T, normal(2, 4, 16), method="velocity")


def test_corrupted_tokens_are_as_many_as_said():
    keys = jax.random.split(jax.random.key(0), 200)
    codes = jnp.zeros((200, 50, 2), jnp.int32)
    corrupt = lambda codes, keys: TokenCorruption(0.5, (0.2, 0.4))(codes, FSQ(LEVELS).space, keys)
    replaced, drawn = jax.jit(corrupt)(codes, keys)
    share = np.mean(replaced, axis=1)
    assert abs(np.mean(share > 0) - 0.5) < 0.1 and abs(np.mean(share[share > 0]) - 0.3) < 0.03
    assert [set(np.unique(drawn[..., q])) for q in range(2)] == [{0, 1, 2, 3}, {0, 1, 2}]


def test_values_that_skip_rounding_are_bounded_and_keep_their_codes():
    z = normal(3, 4, 2, seed=5)
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def run(z, keys):
        trained = [FSQ(LEVELS, skip=p).apply({}, z, train=True, key=keys) for p in (0.0, 1.0)]
        return *trained, FSQ(LEVELS, skip=1.0).apply({}, z)

    plain, skipped, evaluated = run(z, keys)
    np.testing.assert_array_equal(plain.codes, skipped.codes)
    assert jnp.all(plain.values != skipped.values) and jnp.max(jnp.abs(skipped.values)) < 1.01
    np.testing.assert_array_equal(evaluated.values, plain.values)
