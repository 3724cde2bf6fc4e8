import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.train.sharding import (
    CODEBOOK_RULES,
    PRIOR_RULES,
    TOKENIZER_RULES,
    MeshShape,
    Rule,
    batch_sharding,
    make_mesh,
    sharding_table,
    sharding_text,
    shardings,
    to_global,
)
from jaxtok.train.tree_paths import leaves_by_path
from tests.small_system import SMALL, SMALL_VQ, prior_update, small_batch, tokenizer_update


def _shapes(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def _specs(tree, rules, mesh):
    return jax.tree.map(lambda sharding: sharding.spec, shardings(tree, rules, mesh))


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshShape(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    "shape, sizes",
    [
        (MeshShape(), (8, 1, 1)),
        (MeshShape(fsdp=4), (2, 4, 1)),
        (MeshShape(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshShape(2, 2, 2), (2, 2, 2)),
    ],
)
def test_mesh_sizes(shape, sizes):
    mesh = make_mesh(shape)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    "shape, message",
    [
        (MeshShape(data=3), "data 3 x fsdp 1 x tensor 1 does not fit 8 devices"),
        (MeshShape(data=-1, fsdp=3), "does not fit 8 devices"),
        (MeshShape(data=-1, fsdp=16), "does not fit 8 devices"),
        (MeshShape(data=-1, fsdp=-1), "at most one axis"),
        (MeshShape(data=0), "1 or more"),
    ],
)
def test_mesh_that_does_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(shape)


def test_mesh_over_some_devices():
    assert make_mesh(MeshShape(), jax.devices()[:2]).shape["data"] == 2


def test_rules_reach_the_optimizer_and_skip_layer_axes(mesh):
    params = {"blocks": {"up": {"kernel": jnp.zeros((3, 8, 4))}}, "out": {"kernel": jnp.zeros((4, 2))}}
    state = {"params": params, "optimizer": optax.adam(1e-3).init(params), "ema": params}
    specs = _specs(state, [Rule("up/kernel", ("fsdp", "tensor"))], mesh)
    for tree in (specs["params"], specs["ema"], specs["optimizer"][0].mu, specs["optimizer"][0].nu):
        assert tree["blocks"]["up"]["kernel"] == P(None, "fsdp", "tensor")
        assert tree["out"]["kernel"] == P()


def test_first_rule_wins_and_patterns_fit_whole_segments(mesh):
    tree = _shapes(up=(4, 4), my_up=(4, 4), up2=(4, 4))
    rules = [Rule("up", (None, "tensor")), Rule(r"\w+", ("fsdp", None))]
    assert _specs(tree, rules, mesh) == {
        "up": P(None, "tensor"),
        "my_up": P("fsdp", None),
        "up2": P("fsdp", None),
    }


@pytest.mark.parametrize(
    "rules, message",
    [
        ([Rule("nothing", (None,))], r"\['nothing'\] decide about no leaf.*Paths look like kernel"),
        ([Rule("kernel", ("fsdp",)), Rule("kern.*", ("tensor",))], r"\['kern\.\*'\] decide about no leaf"),
        ([Rule("kernel", ("fsdp", "fsdp"))], "names an axis twice"),
        ([Rule("kernel", (("data", "fsdp"), "fsdp"))], "names an axis twice"),
        ([Rule("kernel", ("model",))], r"names the axes \['model'\]; the mesh has"),
        ([Rule("kernel", (None, None, "fsdp"))], r"has 3 entries, but kernel has shape \(4, 6\)"),
    ],
)
def test_wrong_rules(mesh, rules, message):
    with pytest.raises(ValueError, match=message):
        shardings(_shapes(kernel=(4, 6)), rules, mesh)


def test_an_optional_rule_may_decide_about_nothing(mesh):
    rules = [Rule("nothing", ("tensor",), optional=True), Rule("kernel", (None, "tensor"))]
    assert _specs(_shapes(kernel=(4, 6)), rules, mesh) == {"kernel": P(None, "tensor")}


def test_dimension_that_does_not_divide_over_all_axes_is_split_over_the_first(mesh, caplog):
    with caplog.at_level(logging.WARNING, "jaxtok"):
        specs = _specs(_shapes(codebook=(6, 5)), [Rule("codebook", (("tensor", "fsdp"), None))], mesh)
    assert specs["codebook"] in (P("tensor", None), P(("tensor",), None))
    assert "dimension 6 does not divide over tensorxfsdp (4 parts), so it is split over tensor" in caplog.text


def test_codebook_of_a_tokenizer_is_split_by_its_codes(mesh):
    shapes = jax.eval_shape(tokenizer_update(SMALL_VQ).init, jax.random.key(0), small_batch(), {})
    specs = leaves_by_path(_specs(shapes, TOKENIZER_RULES, mesh))
    for name in ("codebook", "sums"):
        assert specs[f"quantizer/quantizer/{name}"] == P(("tensor", "fsdp"), None)
    assert specs["quantizer/quantizer/counts"] == P(("tensor", "fsdp"))
    text = sharding_text(shapes, shardings(shapes, TOKENIZER_RULES, mesh), mesh, rows=200)
    row = next(line for line in text.splitlines() if "quantizer/quantizer/codebook" in line)
    assert row.split() == ["0.000", "quantizer/quantizer/codebook", "float32[16,", "16]", "tensorxfsdp,", "-"]


def test_vocabulary_of_a_prior_is_split_by_its_entries(mesh):
    shapes = jax.eval_shape(
        prior_update("autoregressive", SMALL_VQ).init, jax.random.key(0), small_batch(), {}
    )
    chosen = shardings(shapes, PRIOR_RULES, mesh)
    specs = leaves_by_path(jax.tree.map(lambda sharding: sharding.spec, chosen))
    for name, spec in {
        "embedding/table": P("tensor", "fsdp"),
        "params/out/kernel": P("fsdp", "tensor"),
        "/mu/out/kernel": P("fsdp", "tensor"),
        "/nu/out/bias": P("tensor"),
        "stack/block/attention/out/kernel": P(None, "tensor", "fsdp"),
    }.items():
        assert {specs[path] for path in specs if path.endswith(name)} == {spec}, name
    table = {path: split for path, _, split, _ in sharding_table(shapes, chosen)}
    assert table["params/embedding/table"] == "tensor, fsdp" and table["params/out/kernel"] == "fsdp, tensor"


def test_the_tables_serve_systems_without_codes_too(mesh):
    """Of bits: no codebook, no table of embeddings."""
    for update, rules in (
        (tokenizer_update(SMALL), TOKENIZER_RULES),
        (prior_update("diffusion"), PRIOR_RULES),
        (prior_update("autoregressive"), PRIOR_RULES),
    ):
        shardings(jax.eval_shape(update.init, jax.random.key(0), small_batch(), {}), rules, mesh)


def test_every_leaf_with_a_row_per_code_is_split(mesh):
    options = {"codes": 12, "width": 8}
    for quantizer in (
        VectorQuantizer(**options, learning="cvq"),
        VectorQuantizer(**options, learning="ema", slots=2, revive_below=0.1),
        VectorQuantizer(**options, revive_below=0.1),
        NeuralResidualQuantizer(**options, depth=2, candidates=3),
    ):
        shapes = jax.eval_shape(lambda key, q=quantizer: q.init(key, jnp.zeros((2, 5, 8))), jax.random.key(0))
        specs = leaves_by_path(_specs(shapes, CODEBOOK_RULES, mesh))
        for path, leaf in leaves_by_path(shapes).items():
            assert (("tensor", "fsdp") in specs[path]) == (12 in leaf.shape), path


def test_dimension_that_does_not_divide_stays_whole_and_is_reported(mesh, caplog):
    with caplog.at_level(logging.WARNING, "jaxtok"):
        specs = _specs(_shapes(kernel=(7, 6)), [Rule("kernel", ("fsdp", "tensor"))], mesh)
    assert specs == {"kernel": P(None, "tensor")}
    assert "kernel (7, 6): dimension 7 does not divide over fsdp (2 parts)" in caplog.text


def test_default_splits_large_leaves_over_fsdp(mesh):
    tree = _shapes(wide=(24, 128, 512), odd=(501, 503), uneven=(511, 256), small=(64, 64), scalar=())
    assert _specs(tree, [], mesh) == {
        "wide": P(None, None, "fsdp"),
        "odd": P(),
        "uneven": P(None, "fsdp"),
        "small": P(),
        "scalar": P(),
    }
    one = make_mesh(MeshShape(), jax.devices()[:1])
    assert _specs(tree, [], one)["wide"] == P()


def test_table_shows_the_largest_first(mesh):
    tree = {
        "a": jax.ShapeDtypeStruct((4,), jnp.bfloat16),
        "b": jax.ShapeDtypeStruct((512, 1024), jnp.float32),
    }
    rows = sharding_table(tree, shardings(tree, [Rule("b", (("data", "fsdp"), None))], mesh))
    assert rows == [
        ("b", "float32[512, 1024]", "dataxfsdp, -", "0.500"),
        ("a", "bfloat16[4]", "replicated", "0.000"),
    ]


def test_text_sums_up_what_a_device_holds(mesh):
    tree = {name: jax.ShapeDtypeStruct((1024, size), jnp.float32) for name, size in (("a", 512), ("b", 256))}
    text = sharding_text(tree, shardings(tree, [Rule("a", ("fsdp", None))], mesh), mesh, rows=1)
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    parts = mesh.shape["fsdp"]
    first, row = text.splitlines()
    assert first == f"mesh {shape}; {3 / parts:.1f} MiB of state per device in 2 arrays, the largest:"
    assert row.split() == [f"{2 / parts:.3f}", "a", "float32[1024,", "512]", "fsdp,", "-"]


def test_batch_is_split_over_data_and_fsdp(mesh):
    local = {"image": np.arange(8 * 3, dtype=np.uint8).reshape(8, 3), "label": np.arange(8)[:, None]}
    batch = to_global(local, mesh)
    assert batch["image"].sharding == batch_sharding(mesh) == NamedSharding(mesh, P(("data", "fsdp")))
    assert batch["image"].addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(batch["image"], local["image"])


def test_batch_that_does_not_divide(mesh):
    with pytest.raises(
        ValueError, match=r"global batch 6 \(image\) does not divide over 4 devices.*Use 4 or 8"
    ):
        to_global({"image": np.zeros((6, 2))}, mesh)
