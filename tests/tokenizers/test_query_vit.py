import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from jaxtok.codes import Latents
from jaxtok.keys import example_keys
from jaxtok.quantize.binary import BinaryQuantizer
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.query_vit import Coordinates, QueryDecoder, QueryEncoder, ViTShape
from tests.filled import filled

TOKENS, BITS = 3, 5
ENCODER = ViTShape(2, 1, 6, resample_after=(0,), axes_dims=(2, 2, 2))
DECODER = ViTShape(2, 2, 6, resample_after=(0,), axes_dims=(2, 2, 2))
COORDINATES = Coordinates(scale=4)


def build(quantizer=None, **decoder):
    return ImageTokenizer(
        QueryEncoder(ENCODER, TOKENS, 2, COORDINATES),
        quantizer or BinaryQuantizer(BITS, ENCODER.width, temperature=1.0),
        QueryDecoder(DECODER, 2, 3, COORDINATES, **decoder),
        image_size=(8, 8),
    )


def pixels(height, width, batch=4):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


MODEL = build(align_after=1, align_width=7)
IMAGES = pixels(8, 8)


@pytest.fixture(scope="module")
def variables():
    return filled(MODEL, IMAGES, True, jax.random.key(0))


@pytest.fixture(scope="module")
def train():
    """Reconstruction and gradient of a loss that uses every output, in one compilation."""

    def loss(params, images, keys):
        out = MODEL.apply({"params": params}, images, True, keys)
        return jnp.mean(jnp.square(out.x_hat - 0.1)) + jnp.mean(jnp.square(out.features["alignment"])), out

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def evaluation(variables):
    return jax.jit(lambda v, x: (MODEL.apply(v, x), MODEL.apply(v, x, method="encode")))(variables, IMAGES)


@pytest.fixture(scope="module")
def decode(variables):
    run = jax.jit(lambda v, latents: MODEL.apply(v, latents, method="decode"))
    return lambda codes, mask: run(variables, Latents(codes=codes, mask=mask))


ALL = np.ones((4, TOKENS, BITS), bool)


def test_evaluation_is_encode_then_decode(evaluation, decode):
    out, latents = evaluation
    assert latents.codes.shape == (4, TOKENS, BITS) and latents.codes.dtype == jnp.int32
    assert out.x_hat.shape == IMAGES.shape and out.x_hat.dtype == jnp.float32 and out.features == {}
    np.testing.assert_array_equal(latents.codes, out.quantized.codes)
    np.testing.assert_array_equal(latents.values, out.quantized.values)
    np.testing.assert_allclose(decode(latents.codes, ALL), out.x_hat, atol=1e-5)
    assert np.ptp(latents.codes.reshape(4, -1), axis=0).any()  # images have different codes


def test_one_set_of_weights_reads_and_writes_every_resolution(variables):
    def run(images, size):
        latents = MODEL.apply(variables, images, method="encode")
        return latents.codes, MODEL.apply(variables, latents.codes, size, method="decode")

    for read, write in (((8, 8), (16, 16)), ((4, 12), (8, 8)), ((16, 16), (4, 8))):
        codes, written = jax.eval_shape(lambda: run(pixels(*read), write))  # noqa: B023
        assert codes.shape == (4, TOKENS, BITS) and written.shape == (4, *write, 3)


def test_training_draws_bits_per_example_and_offers_features_to_align(variables, train):
    keys, order = example_keys(jax.random.key(0), 4), np.array([2, 0, 3, 1])
    _, out = train(variables["params"], IMAGES, keys)
    # One feature per cell of the fine grid: the tap lies behind the doubling.
    assert out.features["alignment"].shape == (4, 16, 7)
    # In another order, the same: nothing depends on the place in the batch.
    _, moved = train(variables["params"], IMAGES[order], keys[order])
    np.testing.assert_array_equal(moved.quantized.codes, np.asarray(out.quantized.codes)[order])
    np.testing.assert_allclose(moved.x_hat, np.asarray(out.x_hat)[order], atol=1e-5)
    _, redrawn = train(variables["params"], IMAGES, keys[order])
    assert np.any(redrawn.quantized.codes != out.quantized.codes)


def test_everything_that_is_trained_gets_a_gradient(variables, train):
    gradients, _ = train(variables["params"], IMAGES, example_keys(jax.random.key(0), 4))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.any(gradient), jax.tree_util.keystr(path)


def test_the_alignment_tap_before_the_doubling_sees_the_coarse_grid():
    model = build(align_after=0, align_width=7)
    out = jax.eval_shape(
        lambda: model.init_with_output({"params": jax.random.key(0)}, IMAGES, True, jax.random.key(1))[0]
    )
    assert out.features["alignment"].shape == (4, 4, 7)


def test_masked_tokens_are_dropped(evaluation, decode):
    codes = np.asarray(evaluation[1].codes)
    mask, other, off = ALL.copy(), codes.copy(), codes.copy()
    mask[:, 1:] = False
    dropped = decode(codes, mask)
    assert np.abs(dropped - decode(codes, ALL)).max() > 1e-3
    # What a dropped token says no longer matters, and it looks like one without any bit on.
    other[:, 1:], off[:, 1:] = 1 - codes[:, 1:], 0
    np.testing.assert_array_equal(decode(other, mask), dropped)
    np.testing.assert_allclose(decode(off, ALL), dropped, atol=1e-5)


def test_masked_values_are_dropped_whatever_they_hold(variables):
    values, mask = np.ones((4, TOKENS, ENCODER.width), np.float32), ALL[..., :1].copy()
    mask[:, 1:] = False
    run = jax.jit(lambda values: MODEL.apply(variables, Latents(values=values, mask=mask), method="decode"))
    dropped = run(values)
    values[:, 1:] = np.nan
    np.testing.assert_array_equal(run(values), dropped)


def test_values_and_interpolated_bits_can_be_decoded(variables):
    values, bits = (
        np.zeros((4, TOKENS, ENCODER.width), np.float32),
        np.full((4, TOKENS, BITS), 0.5, np.float32),
    )
    for latents in (Latents(values=values), bits):
        image = jax.eval_shape(lambda: MODEL.apply(variables, latents, method="decode"))  # noqa: B023
        assert image.shape == (4, 8, 8, 3)


def test_a_moving_codebook_is_updated_through_the_tokenizer():
    model = build(VectorQuantizer(7, ENCODER.width, learning="ema"))
    state = filled(model, IMAGES)["quantizer"]
    out = jax.eval_shape(lambda: model.init_with_output({"params": jax.random.key(0)}, IMAGES, True)[0])
    assert out.quantized.codes.shape == (4, TOKENS, 1) and model.space.levels == (7,)
    statistics = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), out.quantized.statistics)
    new = jax.jit(model.update_quantizer)(state, statistics, jax.random.key(0))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert np.abs(new["quantizer"]["codebook"] - state["quantizer"]["codebook"]).max() > 0
    assert MODEL.update_quantizer({}, {}, jax.random.key(0)) == {}


@pytest.mark.slow  # a compilation of its own
def test_half_precision_is_finite_and_returns_float32(variables):
    parts = {name: getattr(MODEL, name).clone(dtype=jnp.bfloat16) for name in ("encoder", "decoder")}
    half = MODEL.clone(**parts)
    out = jax.jit(lambda v: half.apply(v, IMAGES))(variables)
    assert out.x_hat.dtype == out.quantized.values.dtype == jnp.float32 and np.isfinite(out.x_hat).all()


def test_it_works_as_an_nnx_module(variables, evaluation):
    def fresh():
        return bridge.lazy_init(bridge.ToNNX(MODEL), IMAGES[:1], True, rngs=nnx.Rngs(params=0, quantizer=1))

    graph, state = nnx.split(nnx.eval_shape(fresh))
    nnx.replace_by_pure_dict(state, variables["params"])
    model = nnx.merge(graph, state)
    latents = nnx.jit(lambda model, images: model.encode(images))(model, IMAGES)
    np.testing.assert_array_equal(latents.codes, evaluation[1].codes)


def test_sizes_that_do_not_divide_are_refused(variables):
    with pytest.raises(ValueError, match="6x8: both sides must divide by 4; resize or crop"):
        MODEL.apply(variables, pixels(6, 8), method="encode")
    with pytest.raises(ValueError, match="cannot decode to 8x10: both sides must divide by 4"):
        MODEL.apply(variables, jnp.zeros((1, TOKENS, BITS), jnp.int32), (8, 10), method="decode")
    with pytest.raises(ValueError, match="expected uint8"):
        MODEL.apply(variables, np.zeros((1, 8, 8, 3), np.int32), method="encode")
    with pytest.raises(ValueError, match="nothing to decode"):
        MODEL.apply(variables, Latents(), method="decode")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"axes_dims": (2, 2, 4)}, "sum to 8, head_dim is 6"),
        ({"resample_after": (3,)}, "below layers=3"),
        ({"resample_after": (1, 0)}, "increasing"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ViTShape(**{"layers": 3, "heads": 1, "head_dim": 6, "axes_dims": (2, 2, 2), **change})


def test_a_block_to_align_must_exist():
    with pytest.raises(ValueError, match="align_after=2 must be a block index below layers=2"):
        jax.eval_shape(lambda: build(align_after=2).init({"params": jax.random.key(0)}, IMAGES))


def test_segments_surround_the_resampling_steps():
    assert ViTShape(12, 12, resample_after=(7,)).segments == (8, 4)
    assert ViTShape(4, 1, resample_after=()).segments == (4,)
    assert ViTShape(4, 1, resample_after=(1, 3)).segments == (2, 2, 0)


def test_corners_keep_their_coordinates_at_every_resolution():
    @functools.partial(jax.jit, static_argnums=(0, 1))
    def sines(grid, halvings):
        return COORDINATES.halved(halvings).tables(TOKENS, grid, (2, 2, 2)).sin

    small, large = np.asarray(sines((2, 2), 0)), np.asarray(sines((5, 4), 0))
    corners = np.array([0, 3, 16, 19])
    np.testing.assert_array_equal(small[:TOKENS], large[:TOKENS])
    np.testing.assert_allclose(small[TOKENS:], large[TOKENS + corners], atol=1e-6)
    # A halved grid spans half the range: its last cell is (0, 1, 1).
    np.testing.assert_allclose(sines((2, 2), 1)[-1], np.sin(1.0) * np.array([0, 1, 1, 0, 1, 1]), atol=1e-6)


def test_a_scale_is_rounded_down_by_halving_alone():
    """Official scales are pixels / patch: a part of a patch counts until the first halving."""
    for scale, halves in ((10.5, [10.5, 5, 2]), (9, [9, 4, 2]), (64, [64, 32, 16])):
        coordinates = Coordinates(scale)
        assert [coordinates.halved(times).scale for times in range(3)] == halves
    assert Coordinates(9).halved(1).doubled(1).scale == 8
    assert Coordinates(None).halved(2).doubled(1).scale is None


def test_the_decoder_doubles_the_scale_that_was_rounded_down(monkeypatch):
    seen, tables = [], Coordinates.tables

    def spy(coordinates, *args):
        seen.append(coordinates.scale)
        return tables(coordinates, *args)

    monkeypatch.setattr(Coordinates, "tables", spy)
    encoder = QueryEncoder(ENCODER, TOKENS, 2, Coordinates(5.5))
    decoder = QueryDecoder(DECODER, 2, 3, Coordinates(5.5))
    model = ImageTokenizer(encoder, BinaryQuantizer(BITS, ENCODER.width), decoder, image_size=(8, 8))
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    assert seen == [5.5, 2, 2, 4]
