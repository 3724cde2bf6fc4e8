import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels import lookup
from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.lookup import gpu, tpu
from tests.filled import normal
from tests.kernels.ahead_of_time import compile_for_tpu, floats, lower_for_gpu, temporary_bytes
from tests.kernels.test_dispatch import on

KERNELS = {
    "xla": {"implementation": "xla"},
    "pallas_tpu": {"implementation": "pallas_tpu", "interpret": True},
    "pallas_gpu": {"implementation": "pallas_gpu", "interpret": True},
}
every = pytest.mark.parametrize("kernel", KERNELS)


def draw(lowest, highest, *shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(lowest, highest, shape, np.int32))


@every
def test_it_sums_over_slots_and_its_gradient_is_a_scatter(kernel):
    books, codes, upstream = normal(3, 7, 4), draw(0, 7, 2, 5, 3), normal(2, 5, 4, seed=3)

    @jax.jit
    def run(books, codes, upstream):
        look_up = lambda books: lookup(books, codes, **KERNELS[kernel])
        values, back = jax.vjp(jax.checkpoint(look_up), books)
        return values, back(upstream)[0], lookup(books[0], codes[..., 0], **KERNELS[kernel])

    values, gradient, one = run(books, codes, upstream)
    expected = sum(np.asarray(books)[slot][np.asarray(codes)[..., slot]] for slot in range(3))
    np.testing.assert_array_equal(values, expected)
    by_code = np.zeros_like(books)
    for slot in range(3):
        np.add.at(by_code[slot], np.asarray(codes)[..., slot], np.asarray(upstream))
    np.testing.assert_allclose(gradient, by_code, atol=1e-5)
    np.testing.assert_array_equal(one, books[0][codes[..., 0]])


@pytest.mark.parametrize("slots, size, width, tokens", [(1, 300, 5, 200), (3, 600, 40, 130), (2, 7, 530, 20)])
def test_kernels_give_the_bits_of_the_codebook(slots, size, width, tokens):
    books = normal(slots, size, width) * np.float32(10.0) ** draw(-25, 25, slots, size, 1)
    books = books.at[0, 0, 0].set(jnp.finfo(jnp.float32).max)
    codes, upstream = draw(-size - 3, size + 3, tokens, slots), normal(tokens, width, seed=3)

    def run(**options):
        inside = jnp.clip(codes, -size, size - 1)
        gradient = jax.grad(lambda books: jnp.vdot(lookup(books, inside, **options), upstream))
        return lookup(books, codes, **options), gradient(books / 1e25)

    found = jax.jit(lambda: {name: run(**options) for name, options in KERNELS.items()})()
    one = found.pop("xla")
    for name, other in found.items():
        np.testing.assert_array_equal(one[0], other[0], err_msg=name)
        np.testing.assert_allclose(one[1], other[1], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("place, blocks", [(tpu, Blocks(128, 128, width=16)), (gpu, Blocks(16, 0, width=16))])
def test_small_blocks_give_the_same(place, blocks):
    books, codes = normal(2, 300, 37), draw(0, 300, 200, 2)
    found = jax.jit(lambda: place.look_up(books, codes, blocks=blocks, interpret=True))()
    one, two = np.asarray(books)
    np.testing.assert_array_equal(found, one[codes[:, 0]] + two[codes[:, 1]])


@every
def test_no_tokens_and_under_vmap(kernel):
    book, codes = normal(7, 4), draw(0, 7, 3, 5)
    assert lookup(book, codes[:, :0], **KERNELS[kernel]).shape == (3, 0, 4)
    books = jnp.stack([book, 2 * book, 3 * book])
    values = jax.jit(jax.vmap(lambda book, codes: lookup(book, codes, **KERNELS[kernel])))(books, codes)
    np.testing.assert_array_equal(values, book[codes] * jnp.arange(1.0, 4)[:, None, None])


@every
def test_sharded_equals_unsharded(kernel):
    book, codes, upstream = normal(7, 4), draw(0, 7, 21), normal(21, 4, seed=3)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def loss(book, codes):
        values = lookup(book, codes, **KERNELS[kernel])
        return jnp.vdot(values, upstream), values

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, values), gradient = run(book, codes)
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        (_, found), found_gradient = run(*jax.device_put((book, codes), everywhere))
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(found_gradient, gradient, atol=1e-5)


@pytest.mark.parametrize(
    "codes, tokens, dtype, kernel",
    [
        (1024, 65_536, jnp.float32, True),
        (1025, 65_536, jnp.float32, False),  # the work of the kernel grows with the codebook
        (1024, 64, jnp.float32, False),  # a step of a sampler leaves a block empty
        (1024, 65_536, jnp.bfloat16, False),
    ],
)
def test_tpus_take_the_kernel_for_many_tokens_of_few_codes(codes, tokens, dtype, kernel):
    shapes = jax.ShapeDtypeStruct((codes, 8), dtype), jax.ShapeDtypeStruct((tokens,), jnp.int32)
    with on("tpu"):
        assert ("pallas_call" in str(jax.make_jaxpr(lookup)(*shapes))) == kernel
    for platform in ("cpu", "cuda", "rocm"):
        with on(platform):
            assert "pallas_call" not in str(jax.make_jaxpr(lookup)(*shapes))


@pytest.mark.parametrize(
    "chip, slots, size, width",
    [
        ("v5e", 1, 1024, 64),
        pytest.param("v5p", 8, 8192, 8, marks=pytest.mark.slow),
        pytest.param("v6e", 2, 512, 1000, marks=pytest.mark.slow),
    ],
)
def test_the_tpu_kernel_compiles_without_a_one_hot_matrix(chip, slots, size, width):
    def values_and_gradient(books, codes, upstream):
        values, back = jax.vjp(lambda books: lookup(books, codes, implementation="pallas_tpu"), books)
        return values, back(upstream)

    shapes = (
        floats(slots, size, width),
        jax.ShapeDtypeStruct((65_536, slots), jnp.int32),
        floats(65_536, width),
    )
    compiled = compile_for_tpu(values_and_gradient, *shapes, topology=chip)
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2
    # Copies of what comes in and goes out; all ones and zeros would be 0.1 to 16 GiB.
    assert temporary_bytes(compiled) < 4 * 65_536 * (2 * width + 128) + 2**20


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize("implementation", ["pallas_gpu", None])
def test_it_lowers_for_gpus(platform, implementation):
    def values_and_gradient(books, codes, upstream):
        values, back = jax.vjp(lambda books: lookup(books, codes, implementation=implementation), books)
        return values, back(upstream)

    shapes = floats(3, 1000, 40), jax.ShapeDtypeStruct((4096, 3), jnp.int32), floats(4096, 40)
    text = lower_for_gpu(values_and_gradient, *shapes, platform=platform)
    assert ("triton" in text) == (implementation is not None)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit codebooks"):
        lookup(normal(3, 7, 4), jnp.zeros((5, 2), jnp.int32))
    with pytest.raises(ValueError, match="runs on tpu, but this program is traced for cpu"):
        lookup(normal(4, 3), jnp.zeros(2, jnp.int32), implementation="pallas_tpu")
    with pytest.raises(ValueError, match="float32 codebooks, not bfloat16"):
        lookup(normal(4, 3).astype(jnp.bfloat16), jnp.zeros(2, jnp.int32), **KERNELS["pallas_gpu"])
