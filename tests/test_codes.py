import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxtok.codes import CodeSpace, Condition, Latents, Layout, Quantized, Reconstruction, Vocab

few_levels = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
# Half of them small, so that their product often fits 32 bits.
many_levels = st.lists(st.integers(1, 12) | st.integers(1, 2**32), min_size=1, max_size=6).map(tuple)


def random_codes(space, seed, *shape):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, level, shape) for level in space.levels], axis=-1).astype(
        space.code_dtype
    )


# -- the alphabet


def test_size_and_bits_are_exact():
    fsq = CodeSpace((8, 8, 8, 5, 5, 5))
    assert (fsq.slots, fsq.size) == (6, 64_000)
    assert fsq.bits == pytest.approx(np.log2(64_000))
    binary = CodeSpace.binary(64)
    assert binary.size == 2**64 and binary.bits == 64.0 and binary.is_binary and not fsq.is_binary


@pytest.mark.parametrize("levels", [(), (0,), (4, -1)])
def test_a_space_needs_slots_with_values(levels):
    with pytest.raises(ValueError, match="at least"):
        CodeSpace(levels)


# -- joint index


@given(few_levels)
def test_split_and_join_are_inverse_on_every_code(levels):
    space = CodeSpace(levels)
    every = np.arange(space.size, dtype=np.int32)
    codes = space.split(every)
    assert codes.dtype == np.int32 and codes.shape == (space.size, space.slots)
    np.testing.assert_array_equal(space.join(codes), every)
    # Slot 0 is the fastest digit.
    radix = np.concatenate([[1], np.cumprod(space.levels[:-1])])
    np.testing.assert_array_equal((codes * radix).sum(-1), every)


@given(many_levels, st.integers(0, 2**32 - 1))
def test_join_is_exact_up_to_32_bits(levels, seed):
    space = CodeSpace(levels)
    assume(space.size <= 2**32)
    codes = random_codes(space, seed, 3)
    codes[0], codes[1] = 0, np.array(space.levels) - 1
    joint = space.join(codes)
    exact = [
        sum(int(c) * int(np.prod(space.levels[:q], dtype=object)) for q, c in enumerate(row)) for row in codes
    ]
    assert joint.tolist() == exact and joint.dtype == (np.int32 if space.size <= 2**31 else np.uint32)
    np.testing.assert_array_equal(space.split(joint), codes)


@pytest.mark.parametrize("levels", [(2,) * 31, (2,) * 32, (65_536, 65_536), (2**32,), (5, 1, 7), (3, 2**30)])
def test_the_accelerator_computes_what_the_host_computes(levels):
    space = CodeSpace(levels)
    codes = random_codes(space, 0, 2, 5)
    codes[0, 0] = np.array(levels) - 1
    joint = space.join(codes)
    on_device = space.join(jnp.asarray(codes))
    assert on_device.dtype == joint.dtype
    np.testing.assert_array_equal(on_device, joint)
    np.testing.assert_array_equal(space.split(on_device), codes)


def test_one_token_without_leading_axes():
    space = CodeSpace((4, 5))
    assert int(space.join(np.array([3, 2], np.int32))) == 11
    np.testing.assert_array_equal(space.split(np.array(11)), [3, 2])


def test_an_index_beyond_32_bits_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="regroup"):
        CodeSpace.binary(33).join(np.zeros((1, 33), np.int32))
    with pytest.raises(ValueError, match="regroup"):
        CodeSpace.binary(64).split(np.zeros((1,), np.int32))


def test_codes_outside_their_alphabet_name_the_slot_and_the_remedy():
    space = CodeSpace((4, 3))
    with pytest.raises(ValueError, match=r"slot 1 holds codes in \[0, 3\], its alphabet is \[0, 3\).*mask"):
        space.join(np.array([[0, 0], [0, 3]], np.int32))
    with pytest.raises(ValueError, match=r"slot 0 holds codes in \[-1"):
        space.pack(np.array([[-1, 0]], np.int32))
    with pytest.raises(ValueError, match=r"indices span .* this space has \[0, 12\)"):
        space.split(np.array([12], np.int32))
    with pytest.raises(ValueError, match="2 slots"):
        space.join(np.zeros((5, 3), np.int32))
    with pytest.raises(ValueError, match="expected integers"):
        space.pack(np.zeros((5, 2), np.float32))


# -- regrouping


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_merging_and_splitting_permuted_groups_is_the_identity(data, levels, seed):
    space = CodeSpace(tuple(levels))
    order = data.draw(st.permutations(range(space.slots)))
    cuts = sorted(data.draw(st.sets(st.integers(1, space.slots))) | {space.slots})
    groups = [order[start:end] for start, end in zip([0, *cuts], cuts)]
    regrouping = space.regroup(groups)
    codes = random_codes(space, seed, 2, 3)
    merged = regrouping.merge(codes)
    assert regrouping.space.size == space.size and merged.shape == (2, 3, len(groups))
    assert (merged < np.array(regrouping.space.levels)).all()
    np.testing.assert_array_equal(regrouping.split(merged), codes)
    np.testing.assert_array_equal(merged[..., 0], regrouping.parts[0].join(codes[..., list(groups[0])]))


def test_a_merged_slot_of_32_bits_survives():
    regrouping = CodeSpace.binary(64).regroup((range(32, 64), range(32)))
    codes = np.random.default_rng(0).integers(0, 2, (3, 64)).astype(np.int32)
    codes[0] = 1
    merged = regrouping.merge(codes)
    assert merged.dtype == np.uint32 and merged[0].tolist() == [2**32 - 1] * 2
    np.testing.assert_array_equal(regrouping.split(merged), codes)
    np.testing.assert_array_equal(regrouping.split(regrouping.merge(jnp.asarray(codes))), codes)


def test_groups_that_are_no_partition_or_too_large_are_refused():
    with pytest.raises(ValueError, match="exactly once"):
        CodeSpace((2, 2, 2)).regroup(((0, 1),))
    with pytest.raises(ValueError, match="exactly once"):
        CodeSpace((2, 2)).regroup(((0, 1), (1,)))
    with pytest.raises(ValueError, match="32-bit"):
        CodeSpace.binary(40).regroup((range(40),))


# -- bytes


@pytest.mark.parametrize(
    "levels, tokens, packed_bits, size",
    [
        ((2,) * 64, 128, 64, 1024),  # Instella-T2I: 1 KiB per image
        ((8, 8, 8, 5, 5, 5), 256, 16, 512),  # log2(64000) = 15.97, one field of 16 bits
        ((1000,) * 8, 75, 80, 750),  # fields of three, three and two slots: 30 + 30 + 20 bits
        ((4096,), 3, 12, 5),  # 36 bits
        ((1, 1), 4, 0, 0),
    ],
)
def test_pack_takes_exactly_the_bits_it_promises(levels, tokens, packed_bits, size):
    space = CodeSpace(levels)
    codes = random_codes(space, 0, 2, tokens)
    packed = space.pack(codes)
    assert space.packed_bits == packed_bits and packed.shape == (2, size) and packed.dtype == np.uint8
    np.testing.assert_array_equal(space.unpack(packed, tokens), codes)


@given(many_levels, st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(levels, tokens, seed):
    space = CodeSpace(levels)
    codes = random_codes(space, seed, 2, tokens)
    assert space.bits <= space.packed_bits
    np.testing.assert_array_equal(space.unpack(space.pack(codes), tokens), codes)


def test_packed_bits_are_little_endian_and_padded_with_zeros():
    assert CodeSpace.binary(3).pack(np.array([[1, 0, 0], [0, 1, 1]], np.int32)).tolist() == [0b110001]


def test_unpack_refuses_a_wrong_number_of_bytes():
    with pytest.raises(ValueError, match="4 tokens of 3 bits take 2"):
        CodeSpace.binary(3).unpack(np.zeros(3, np.uint8), 4)


# -- layouts and vocabularies


def test_a_layout_knows_where_scales_and_segments_lie():
    layout = Layout(14, scales=((1, 1), (2, 2), (3, 3)), segments=(("semantic", 4), ("pixel", 10)))
    assert layout.scale(1) == slice(1, 5) and layout.scale(-1) == slice(5, 14)
    assert layout.segment("pixel") == slice(4, 14)
    with pytest.raises(ValueError, match="no segment 'text'"):
        layout.segment("text")
    with pytest.raises(ValueError, match="scale 3"):
        layout.scale(3)
    with pytest.raises(ValueError, match="cover 5 tokens, the layout has 14"):
        Layout(14, scales=((1, 1), (2, 2)))


def test_vocabulary_ranges_follow_the_codes():
    vocab = Vocab(CodeSpace((4, 3)), (("mask", 1), ("class", 10)))
    assert vocab.size == 18 and vocab.offsets == (0, 4)
    assert vocab.range("codes") == range(7) and vocab.range("class") == range(8, 18)
    assert vocab.id("mask") == 7 and vocab.id("class", 9) == 17
    codes = random_codes(vocab.space, 0, 2, 5)
    ids = vocab.from_codes(codes)
    np.testing.assert_array_equal(ids, codes + np.array([0, 4]))
    np.testing.assert_array_equal(vocab.to_codes(ids), codes)
    np.testing.assert_array_equal(vocab.to_codes(vocab.from_codes(jnp.asarray(codes))), codes)


def test_vocabulary_mistakes_are_named():
    vocab = Vocab(CodeSpace((4,)), (("class", 10),))
    with pytest.raises(ValueError, match="outside the 10 ids"):
        vocab.id("class", 10)
    with pytest.raises(ValueError, match="no range 'mask'"):
        vocab.range("mask")
    with pytest.raises(ValueError, match="slot 0"):
        vocab.to_codes(np.array([[4]], np.int32))
    for ranges in ((("a", 1), ("a", 2)), (("codes", 1),), (("a", 0),)):
        with pytest.raises(ValueError, match="names must differ"):
            Vocab(CodeSpace((4,)), ranges)


# -- conditions

DROP = np.array([False, True, False])


def test_dropped_classes_become_the_null_class():
    condition = Condition(jnp.array([3, 4, 5]), null=Condition(jnp.array([10])))
    assert condition.batch == 3
    assert condition.select(DROP).features.tolist() == [3, 10, 5]
    assert condition.unconditional().features.tolist() == [10, 10, 10]


def test_dropped_texts_take_features_and_mask_of_the_null_text():
    condition = Condition(
        jnp.array([[1, 2], [3, 4], [5, 0]]),
        jnp.array([[True, True], [True, True], [True, False]]),
        null=Condition(jnp.array([[9, 0]]), jnp.array([[True, False]])),
    )
    selected = condition.select(DROP)
    assert selected.features.tolist() == [[1, 2], [9, 0], [5, 0]]
    assert selected.mask.tolist() == [[True, True], [True, False], [True, False]]


def test_a_null_text_with_a_mask_drops_rows_of_texts_without_one():
    null = Condition(jnp.array([[9, 0]]), jnp.array([[True, False]]))
    condition = Condition(jnp.array([[1, 2], [3, 4], [5, 6]]), null=null)
    assert condition.select(DROP).mask.tolist() == [[True, True], [True, False], [True, True]]
    assert condition.unconditional().mask.tolist() == [[True, False]] * 3


def test_layerwise_text_has_its_batch_on_axis_one():
    features = jnp.arange(2 * 3 * 1 * 2, dtype=jnp.float32).reshape(2, 3, 1, 2)
    null = Condition(jnp.full((2, 1, 1, 2), -1.0), batch_axis=1)
    condition = Condition(features, null=null, batch_axis=1)
    selected = condition.select(DROP)
    assert condition.batch == 3 and selected.batch_axis == 1
    np.testing.assert_array_equal(selected.features[:, 1], -1.0)
    np.testing.assert_array_equal(selected.features[:, ::2], features[:, ::2])


def test_a_condition_without_null_says_so():
    with pytest.raises(ValueError, match="null="):
        Condition(jnp.array([3])).select(np.array([True]))
    with pytest.raises(ValueError, match="null has 2 rows"):
        Condition(jnp.arange(3), null=Condition(jnp.arange(2))).unconditional()


# -- pytrees


def test_the_vocabulary_travels_through_jax():
    codes = jnp.ones((2, 3, 1), jnp.int32)
    things = (
        Latents(codes, mask=codes == 1),
        Quantized(codes * 1.0, codes, {"a": jnp.float32(1)}, {"n": jnp.float32(2)}),
        Reconstruction(Quantized(codes * 1.0, codes)),
        Condition(codes, null=Condition(codes[:1]), batch_axis=1),
    )
    through_jit = jax.jit(lambda x: x)(things)
    shapes = jax.eval_shape(lambda x: x, things)
    doubled = jax.tree.map(lambda x: x + x, things)
    assert through_jit[3].batch_axis == shapes[3].batch_axis == 1
    assert shapes[0].codes.shape == (2, 3, 1) and shapes[0].values is None
    assert jax.tree.structure(through_jit) == jax.tree.structure(things) == jax.tree.structure(doubled)
    assert through_jit[1].losses["a"] == 1 and doubled[1].statistics["n"] == 4
