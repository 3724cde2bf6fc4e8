"""Tables of foreign checkpoints: transforms invert, loading is strict, saving is its inverse."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxtok import weights
from jaxtok.param_trees import merge_collections, split_collections
from jaxtok.weights import (
    Entry,
    Table,
    conv,
    dense,
    identity,
    load_table,
    patch_dense,
    reshape,
    save_table,
    squeeze_leading,
)

TABLE = Table(
    (
        Entry("embed.weight", "embed/kernel", patch_dense(2, 3)),
        Entry("latents", "latents", squeeze_leading(2)),
        Entry("blocks.{i}.q.weight", "encoder/blocks/query/kernel", dense, range(2)),
        Entry("blocks.{i}.q.weight", "encoder/late/query/kernel", dense, range(2, 5)),
        Entry("blocks.{i}.norm.weight", "encoder/norms/scale", indices=(0, 1)),
        Entry("final.{i}.weight", "encoder/norms/scale", indices=(7,)),
        Entry("out.weight", "out/kernel", conv),
    ),
    unused=(r".*\.counter", r"teacher\..*"),
)


def official(seed: int = 0, width: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "embed.weight": (width, 3, 2, 2),
        "latents": (1, 1, width),
        **{f"blocks.{i}.q.weight": (2 * width, width) for i in range(5)},
        **{f"blocks.{i}.norm.weight": (width,) for i in range(2)},
        "final.7.weight": (width,),
        "out.weight": (2, width, 3, 3),
        "teacher.bias": (3,),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {**tensors, "norm.counter": np.asarray(5, np.int64)}


def expected(width: int = 4) -> dict:
    return weights.unflatten(
        {
            "embed/kernel": np.empty((12, width)),
            "latents": np.empty((width,)),
            "encoder/blocks/query/kernel": np.empty((2, width, 2 * width)),
            "encoder/late/query/kernel": np.empty((3, width, 2 * width)),
            "encoder/norms/scale": np.empty((3, width)),
            "out/kernel": np.empty((3, 3, width, 2)),
        }
    )


def assert_same(a: dict, b: dict) -> None:
    a, b = weights.flatten(a), weights.flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype, name


@pytest.mark.parametrize(
    ("transform", "theirs", "ours"),
    [
        (identity, (2, 3), (2, 3)),
        (dense, (5, 2), (2, 5)),
        (conv, (5, 2, 7), (7, 2, 5)),
        (conv, (5, 2, 7, 3), (7, 3, 2, 5)),
        (conv, (5, 2, 7, 3, 4), (7, 3, 4, 2, 5)),
        (reshape((2, 3, 4), (6, 4)), (6, 4), (2, 3, 4)),
        (squeeze_leading(2), (1, 1, 6), (6,)),
        (patch_dense(2, 3), (5, 3, 2, 2), (12, 5)),
        (dense.then(reshape((2, 2, 3), (2, 6))), (6, 2), (2, 2, 3)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_transforms_give_our_shape_and_invert(transform, theirs, ours):
    x = np.random.default_rng(0).normal(size=theirs)
    y = transform.forward(x)
    assert y.shape == ours
    np.testing.assert_array_equal(transform.backward(y), x)


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=3, max_dims=5, max_side=4), elements=st.floats(-1, 1, width=32)
    )
)
def test_conv_inverts_both_ways(x):
    np.testing.assert_array_equal(conv.backward(conv.forward(x)), x)
    np.testing.assert_array_equal(conv.forward(conv.backward(x)), x)


def test_patch_dense_computes_the_patch_convolution():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(4, 6, 3)), rng.normal(size=(5, 3, 2, 2))
    patches = image.reshape(2, 2, 3, 2, 3).transpose(0, 2, 1, 3, 4)  # [row, column, py, px, c]
    by_conv = np.einsum("ijyxc,dcyx->ijd", patches, kernel)
    by_dense = patches.reshape(2, 3, 12) @ patch_dense(2, 3).forward(kernel)
    np.testing.assert_allclose(by_dense, by_conv, atol=1e-12)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_load_and_save_are_inverse(seed, width):
    tensors = official(seed, width)
    params, extras = load_table(TABLE, tensors, expected(width))
    assert sorted(extras) == ["norm.counter", "teacher.bias"]
    saved = save_table(TABLE, params, extras)
    assert_same(saved, tensors)
    again, extras_again = load_table(TABLE, saved, expected(width))
    assert_same(again, params)
    assert_same(extras_again, extras)


def test_layers_are_stacked_in_the_order_of_the_table():
    tensors = official()
    params, _ = load_table(TABLE, tensors, expected())
    late = params["encoder"]["late"]["query"]["kernel"]
    np.testing.assert_array_equal(late[0], tensors["blocks.2.q.weight"].T)
    np.testing.assert_array_equal(params["encoder"]["norms"]["scale"][2], tensors["final.7.weight"])


def test_everything_that_is_wrong_is_listed_at_once():
    tensors = official()
    del tensors["blocks.3.q.weight"]
    tensors["surprise"] = np.zeros(2)
    tensors["blocks.1.q.weight"] = np.zeros((9, 4), np.float32)
    tensors["latents"] = np.zeros((2, 4), np.float32)
    shapes = expected()
    shapes["forgotten"] = np.empty(3)
    shapes["encoder"]["norms"]["scale"] = np.empty((4, 4))
    del shapes["out"]
    with pytest.raises(ValueError) as caught:
        load_table(TABLE, tensors, shapes)
    message = str(caught.value)
    for fact in (
        "missing tensors (1):\n    blocks.3.q.weight",
        "unexpected tensors (1):\n    surprise",
        "blocks.1.q.weight (9, 4) (dense) gives (4, 9), encoder/blocks/query/kernel expects (4, 8)",
        "latents (2, 4) -> latents (4,): squeeze_leading(2) wants 2 leading axes of size 1",
        "blocks.{i}.norm.weight stacks 3 layers, encoder/norms/scale expects (4, 4)",
        "no entry produces (1):\n    forgotten",
        "the model lacks (1):\n    out/kernel",
        "Table(unused=...)",
    ):
        assert fact in message


def test_loading_converts_floats_only():
    table = Table((Entry("w", "w"), Entry("steps.{i}", "steps", indices=range(2)), Entry("n", "n")))
    tensors = {"w": np.ones(2, ml_dtypes.bfloat16), "n": np.arange(3)}
    tensors |= {f"steps.{i}": np.asarray(i, ml_dtypes.bfloat16) for i in range(2)}
    shapes = {"w": np.empty(2), "steps": np.empty(2), "n": np.empty(3)}
    params, _ = load_table(table, tensors, shapes)
    assert {k: v.dtype for k, v in params.items()} == {"w": np.float32, "steps": np.float32, "n": np.int64}
    half, _ = load_table(table, tensors, shapes, dtype=np.float16)
    assert half["w"].dtype == half["steps"].dtype == np.float16


def test_a_packed_tensor_becomes_several_leaves_and_is_packed_again():
    names = ("query", "key", "value")
    table = Table(
        tuple(Entry("{i}.qkv", f"{name}/kernel", dense, range(2), (i, 3)) for i, name in enumerate(names))
    )
    tensors = {f"{i}.qkv": np.random.default_rng(i).standard_normal((6, 4)) for i in range(2)}
    shapes = {name: {"kernel": np.empty((2, 4, 2))} for name in names}
    params, extras = load_table(table, tensors, shapes, dtype=np.float64)
    np.testing.assert_array_equal(params["key"]["kernel"][1], tensors["1.qkv"][2:4].T)
    saved = save_table(table, params, extras)
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(saved[name], tensor)
    with pytest.raises(ValueError, match=r"part 0 of 3 wants a first axis that divides by 3, got shape \(4,"):
        load_table(table, {**tensors, "0.qkv": np.ones((4, 4))}, shapes)


def test_saving_is_strict():
    params, extras = load_table(TABLE, official(), expected())
    params["encoder"]["norms"]["scale"] = params["encoder"]["norms"]["scale"][:2]
    params["new"] = np.zeros(1)
    del params["latents"]
    with pytest.raises(ValueError, match="missing parameters") as caught:
        save_table(TABLE, params, {**extras, "out.weight": np.zeros(1)})
    for fact in ("latents", "new", "encoder/norms/scale (2, 4) must stack 3 layers", "out.weight"):
        assert fact in str(caught.value)


def test_tables_reject_what_they_cannot_mean():
    with pytest.raises(ValueError, match="give both or neither"):
        Entry("blocks.{i}.w", "w")
    with pytest.raises(ValueError, match="give both or neither"):
        Entry("w", "w", indices=range(2))
    with pytest.raises(ValueError, match="is empty"):
        Entry("blocks.{i}.w", "w", indices=range(0))
    with pytest.raises(ValueError, match=r"names twice: \['a'\]"):
        Table((Entry("a", "x"), Entry("a", "y")))
    with pytest.raises(ValueError, match=r"leaves twice: \['x'\]"):
        Table((Entry("a", "x"), Entry("b", "x")))
    with pytest.raises(ValueError, match=r"names twice: \['a'\] \(or not all of their parts\)"):
        Table((Entry("a", "x", part=(0, 3)), Entry("a", "y", part=(2, 3))))
    with pytest.raises(ValueError, match=r"part=\(3, 3\) must be"):
        Entry("a", "x", part=(3, 3))
    with pytest.raises(ValueError, match="hold 6 and 8 elements"):
        reshape((2, 4), (6,))


TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text(st.characters(exclude_characters="/")), inner, min_size=1),
)


@given(st.dictionaries(st.sampled_from("abc"), TREES))
def test_flatten_and_unflatten_are_inverse(tree):
    assert weights.unflatten(weights.flatten(tree)) == tree


def test_flatten_and_unflatten_reject_ambiguous_paths():
    with pytest.raises(ValueError, match="without"):
        weights.flatten({"a/b": 1})
    for flat in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(ValueError, match="leaf"):
            weights.unflatten(flat)


def test_partial_load_accounts_for_every_leaf():
    params = {"body": {"w": np.zeros((2, 2), np.float16), "b": np.zeros(2)}, "head": np.zeros(3)}
    candidate = {"body": {"w": np.ones((2, 2)), "extra": np.ones(1)}, "head": np.ones(10)}
    loaded, report = weights.partial_load(params, candidate)
    assert report.loaded == ("body/w",)
    assert report.skipped == (("head", (3,), (10,)),)
    assert report.missing == ("body/b",)
    assert report.unused == ("body/extra",)
    assert "head: ours (3,), candidate (10,)" in str(report)
    assert loaded["body"]["w"].dtype == np.float16 and loaded["body"]["w"].all()
    assert loaded["body"]["b"] is params["body"]["b"]


def test_partial_load_raises_when_nothing_matches():
    with pytest.raises(ValueError, match="same path and shape"):
        weights.partial_load({"a": np.zeros(2)}, {"b": np.zeros(2)})


def test_importing_the_tables_imports_no_framework():
    program = "import sys, jaxtok.weights; print(sorted({'jax', 'flax', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_collections_travel_in_one_tree():
    variables = {"params": {"a": {"b": 1}}, "quantizer": {"codebook": 2, "deep": {"c": 3}}}
    tree = merge_collections(variables)
    assert weights.flatten(tree) == {"a/b": 1, "quantizer:codebook": 2, "quantizer:deep/c": 3}
    assert split_collections(tree) == variables
    assert split_collections(merge_collections({"params": {}})) == {"params": {}}
