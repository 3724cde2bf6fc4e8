import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtok.kernels import code_statistics, lookup, nearest_code, spmd
from tests.filled import normal

PALLAS = ["pallas_tpu", "pallas_gpu"]
# Without a mesh; one program instead of one per operation.
unsharded = jax.jit(nearest_code, static_argnames=("metric", "return_distance"))


def mesh_of(**axes: int):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(data=2, fsdp=2, tensor=2)


def local_shape(mesh, tokens, **options):
    """What `over_tokens` gives to the function on each device."""
    seen = []

    def function(x, shared):
        seen.append((x.shape, shared.shape))
        return x + shared.sum()

    with jax.set_mesh(mesh):
        out = jax.jit(lambda x, y: spmd.over_tokens(function, (x,), (y,), **options))(
            jnp.arange(2.0 * tokens).reshape(tokens, 2), jnp.ones(4)
        )
    np.testing.assert_array_equal(out, np.arange(2.0 * tokens).reshape(tokens, 2) + 4)
    return seen[-1]


def test_tokens_are_split_and_padded(mesh):
    assert local_shape(mesh, 12) == ((3, 2), (4,))
    assert local_shape(mesh, 13) == ((4, 2), (4,))
    assert local_shape(mesh, 1) == ((1, 2), (4,))


def test_nothing_happens_without_a_mesh_or_on_one_device():
    x, seen = jnp.ones((5, 2)), []
    spmd.over_tokens(lambda x: seen.append(spmd.auto_axes(("data",))) or x, (x,))
    with jax.set_mesh(mesh_of(data=1)):
        jaxpr = jax.make_jaxpr(lambda x: spmd.over_tokens(lambda y: y * 2, (x,)))(x)
    assert seen == [()] and "shard_map" not in str(jaxpr)


def test_the_function_meets_no_axis_that_is_the_compilers(mesh):
    """Not even one without tokens: Mosaic kernels raise there."""
    kinds = []

    def function(x):
        kinds.append(set(jax.sharding.get_abstract_mesh().axis_types))
        return x

    only_tensor = mesh_of(tensor=2)
    for here in (mesh, only_tensor):
        with jax.set_mesh(here):
            jax.jit(lambda x: spmd.over_tokens(function, (x,)))(jnp.ones((4, 2)))
    assert all(kind == {AxisType.Manual} for kind in kinds) and len(kinds) >= 2


def test_sums_are_added_over_devices(mesh):
    x, weights = jnp.arange(26.0).reshape(13, 2), jnp.ones(13)
    with jax.set_mesh(mesh):
        out = jax.jit(
            lambda x, w: spmd.over_tokens(lambda x, w: (w.sum(), w @ x), (x, w), summed=True)
        )(x, weights)  # fmt: skip
    assert out[0] == 13
    np.testing.assert_array_equal(out[1], x.sum(0))


@pytest.mark.parametrize("manual", [{"data"}, {"data", "fsdp", "tensor"}])
def test_it_steps_aside_along_axes_that_are_manual(mesh, manual):
    z, codebook = normal(24, 3), normal(10, 3, seed=1)
    rows, whole = P("data"), P()

    def inside(z, codebook):
        return nearest_code(z, codebook)

    with jax.set_mesh(mesh):
        codes = jax.jit(
            jax.shard_map(
                inside, in_specs=(rows, whole), out_specs=rows, axis_names=manual, check_vma=False
            )
        )(z, codebook)  # fmt: skip
    np.testing.assert_array_equal(codes, unsharded(z, codebook))


@pytest.mark.parametrize("tokens", [37, 3])
@pytest.mark.parametrize("shard_codes", [False, None])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sharded_look_up_equals_the_unsharded_one(mesh, tokens, shard_codes, metric):
    z, half = normal(tokens, 5), np.asarray(normal(12, 5, seed=1))
    codebook = jnp.asarray(np.concatenate([half, half]))  # every code has its equal on the other device
    expected = unsharded(z, codebook, metric=metric, return_distance=True)
    with jax.set_mesh(mesh):
        found = jax.jit(
            lambda z, e: nearest_code(z, e, metric=metric, return_distance=True, shard_codes=shard_codes)
        )(z, codebook)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-5)
    assert expected[0].max() < 12


@pytest.mark.parametrize("implementation", PALLAS)
@pytest.mark.parametrize("shard_codes", [False, True])
def test_sharded_kernels_equal_unsharded_ones(mesh, implementation, shard_codes):
    z, codebook = normal(37, 5), normal(24, 5, seed=1)
    options = {"implementation": implementation, "interpret": True}
    with jax.set_mesh(mesh):
        found = jax.jit(lambda z, e: nearest_code(z, e, shard_codes=shard_codes, **options))(z, codebook)
    np.testing.assert_array_equal(found, unsharded(z, codebook))


def test_several_codebooks_on_a_mesh(mesh):
    z, codebooks = normal(3, 13, 4), normal(3, 16, 4, seed=1)
    with jax.set_mesh(mesh):
        found = jax.jit(nearest_code)(z, codebooks)
    np.testing.assert_array_equal(found, unsharded(z, codebooks))


def test_no_device_gathers_the_tokens(mesh):
    """The point of it: a loop over tiles that XLA partitions by itself starts with an all-gather."""
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    with jax.set_mesh(mesh):
        z = jax.ShapeDtypeStruct((4096, 8), jnp.float32, sharding=rows)
        codebook = jax.ShapeDtypeStruct((256, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
        text = jax.jit(nearest_code).lower(z, codebook).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text


def test_codes_that_cannot_be_split_raise(mesh):
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="5 codes cannot be split over 2 devices"):
        nearest_code(jnp.ones((4, 3)), jnp.ones((5, 3)), shard_codes=True)


def programs(metric="euclidean"):
    """What a quantizer does with a codebook in a step: search, look up and its gradient, count."""

    def search(z, codebook, codes):
        del codes
        return nearest_code(z, codebook, metric=metric)

    def read(z, codebook, codes):
        values, back = jax.vjp(lambda book: lookup(book, codes), codebook)
        return values, back(z)[0]

    def count(z, codebook, codes):
        return code_statistics(z, codes, codebook.shape[0], weights=z[:, 0])

    return {"search": search, "read": read, "count": count}


@pytest.mark.parametrize("tokens, codes", [(64, 24), (13, 24), (13, 7)])
def test_codes_split_over_tensor_give_the_same(mesh, tokens, codes):
    z, codebook = normal(tokens, 5), normal(codes, 5, seed=1)
    indices = np.random.default_rng(2).integers(0, codes, tokens, np.int32)
    run = jax.jit(lambda *arguments: {name: function(*arguments) for name, function in programs().items()})
    expected = run(z, codebook, indices)
    with jax.set_mesh(mesh):
        found = run(z, codebook, indices)
    for name in programs():
        for one, other in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found["read"][0], expected["read"][0])


@pytest.mark.parametrize("name", programs())
def test_no_device_gathers_codes_that_are_split(mesh, name):
    rows, split = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("tensor"))
    with jax.set_mesh(mesh):
        z = jax.ShapeDtypeStruct((4096, 8), jnp.float32, sharding=rows)
        codebook = jax.ShapeDtypeStruct((256, 8), jnp.float32, sharding=split)
        codes = jax.ShapeDtypeStruct((4096,), jnp.int32, sharding=rows)
        compiled = jax.jit(programs()[name]).lower(z, codebook, codes).compile()
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "f32[256,8]" not in text


@pytest.mark.parametrize("kernel", PALLAS)
def test_sharded_kernels_read_and_count_as_unsharded_ones(mesh, kernel):
    options = {"implementation": kernel, "interpret": True}
    z, codebook = normal(13, 5), normal(24, 5, seed=1)
    codes = jnp.asarray(np.random.default_rng(2).integers(0, 24, 13, np.int32))

    def both(**options):
        values, back = jax.vjp(lambda book: lookup(book, codes, **options), codebook)
        return values, back(z)[0], code_statistics(z, codes, 24, **options)

    expected = jax.jit(both)()
    with jax.set_mesh(mesh):
        found = jax.jit(lambda: both(**options))()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
