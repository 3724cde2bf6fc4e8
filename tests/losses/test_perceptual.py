"""Perceptual distances: identities, a NumPy recomputation, PyTorch parity, converters, the fallback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.data.embedded import digits
from jaxtok.losses import embedded, perceptual
from jaxtok.losses.convnext import ConvNeXt, ConvNeXtBlock, convnext_table
from jaxtok.losses.vgg import LPIPS, TORCHVISION_CONVOLUTIONS, VGG16_BLOCKS, feature_distance, unit_normalise
from jaxtok.weights import load_table, save_table, write_tensors


def images(seed: int, size: int = 16, batch: int = 2, channels: int = 3) -> jax.Array:
    noise = np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, channels))
    return jnp.asarray(noise, jnp.float32)


@pytest.fixture(scope="module")
def vgg_tensors():
    """torchvision's names and layout; random weights that keep the features' size; lin weights one."""
    rng, fan_in, tensors = np.random.default_rng(0), 3, {}
    positions = iter(TORCHVISION_CONVOLUTIONS)
    for level, (channels, count) in enumerate(VGG16_BLOCKS):
        for _ in range(count):
            name, scale = f"features.{next(positions)}", np.sqrt(2 / (9 * fan_in))
            weight = rng.standard_normal((channels, fan_in, 3, 3), np.float32) * np.float32(scale)
            tensors |= {
                f"{name}.weight": weight,
                f"{name}.bias": rng.standard_normal(channels, np.float32) / 10,
            }
            fan_in = channels
        tensors[f"lin{level}.model.1.weight"] = np.ones((1, channels, 1, 1), np.float32)
    return {**tensors, "classifier.0.bias": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def lpips(vgg_tensors):
    return perceptual.load_lpips(vgg_tensors)


def numpy_lpips(tensors, x, y):
    """LPIPS with all w = 1, written from the definition."""

    def features(image):
        image = (image - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        x, positions = image, iter(TORCHVISION_CONVOLUTIONS)
        for level, (_, count) in enumerate(VGG16_BLOCKS):
            if level:
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            for _ in range(count):
                name = f"features.{next(positions)}"
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
                x = np.einsum("bhwcij,ocij->bhwo", windows, tensors[f"{name}.weight"], optimize=True)
                x = np.maximum(x + tensors[f"{name}.bias"], 0)
            yield x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

    pairs = zip(features(np.asarray(x)), features(np.asarray(y)), strict=True)
    return sum(((a - b) ** 2).sum(-1).mean((1, 2)) for a, b in pairs)


def test_lpips_is_zero_on_equal_images_symmetric_and_equals_numpy(lpips, vgg_tensors):
    distance = jax.jit(lpips.distance)
    x, y = images(0), images(1)
    there, back = distance(lpips.variables, x, y), distance(lpips.variables, y, x)
    assert (distance(lpips.variables, x, x) < 1e-12).all()
    assert there.shape == (2,) and (there > 0.01).all()
    np.testing.assert_allclose(there, back, rtol=1e-6)
    np.testing.assert_allclose(there, numpy_lpips(vgg_tensors, x, y), rtol=1e-4)


def test_lpips_size_and_files(lpips, vgg_tensors, tmp_path):
    vgg = lpips.variables["params"]["vgg"]
    assert sum(leaf.size for leaf in jax.tree.leaves(vgg)) == 14_714_688  # VGG16 without its classifier
    write_tensors(
        tmp_path / "vgg.safetensors", {k: v for k, v in vgg_tensors.items() if not k.startswith("lin")}
    )
    with pytest.raises(ValueError, match=r"missing tensors \(5\)"):
        perceptual.load_lpips(tmp_path / "vgg.safetensors")
    np.savez(tmp_path / "lin.npz", **{k: v for k, v in vgg_tensors.items() if k.startswith("lin")})
    loaded = perceptual.load_lpips(tmp_path / "vgg.safetensors", tmp_path / "lin.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, lpips.variables)


def test_lpips_needs_sixteen_pixels(lpips):
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 8 x 8"):
        lpips.distance(lpips.variables, images(0, 8), images(1, 8))


def test_unit_normalisation_is_safe_at_zero():
    features = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    run = jax.jit(lambda f: (unit_normalise(f), jax.grad(lambda f: jnp.sum(unit_normalise(f)))(f)))
    unit, gradient = run(features)
    np.testing.assert_allclose(unit, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_feature_distance_uses_its_weights():
    x, y = (jnp.asarray([[[[1.0, 0.0]]]]),), (jnp.asarray([[[[0.0, 1.0]]]]),)
    np.testing.assert_allclose(jax.jit(feature_distance)(x, y, [jnp.asarray([2.0, 3.0])]), [5.0], rtol=1e-6)


TINY = ConvNeXt(depths=(1, 2, 3, 1), dims=(4, 6, 8, 10), classes=7)


def random_params(module, seed: int = 0, size: int = 32):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32) * np.float32(0.3), shapes)


def test_convnext_small_has_the_published_size():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(ConvNeXt().init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 50_223_688
    maps, logits = jax.eval_shape(ConvNeXt().apply, shapes, image)
    assert [m.shape[1:] for m in maps] == [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768)]
    assert logits.shape == (1, 1000)


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_convnext_tables_invert(layout):
    params = random_params(TINY)
    table = convnext_table(TINY, {"stem.0.weight": None} if layout == "timm" else {})
    tensors = save_table(table, params, {})
    name = {"torchvision": "features.5.2.layer_scale", "timm": "stages.2.blocks.2.gamma"}[layout]
    assert tensors[name].shape == {"torchvision": (8, 1, 1), "timm": (8,)}[layout]
    again, extras = load_table(convnext_table(TINY, tensors), tensors, params)
    assert not extras
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_networks_compute_in_bfloat16_and_answer_in_float32():
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    module = TINY.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    maps, logits = jax.eval_shape(module.apply, variables, image)
    assert {m.dtype for m in maps} == {jnp.dtype("bfloat16")} and logits.dtype == jnp.float32
    distance, variables = jax.eval_shape(
        LPIPS(dtype=jnp.bfloat16).init_with_output, jax.random.key(0), image, image
    )
    assert distance.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_logit_distance_resizes_and_vanishes_on_equal_images():
    variables = {"params": random_params(TINY)}
    x, y = images(0, 20), images(1, 20)
    distance = jax.jit(lambda x, y: perceptual.logit_distance(TINY, 32, variables, x, y))
    assert (distance(x, x) < 1e-12).all()
    assert (distance(x, y) > 0).all()
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)
    with pytest.raises(ValueError, match="divides the image by 32"):
        TINY.apply(variables, x)


def test_convnext_block_equals_torch():
    torch = pytest.importorskip("torch")
    from torch import nn

    torch.manual_seed(0)
    dim = 6
    depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
    norm, expand, reduce = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    gamma, x = torch.randn(dim), torch.randn(2, dim, 9, 9)
    with torch.no_grad():
        y = reduce(nn.functional.gelu(expand(norm(depthwise(x).permute(0, 2, 3, 1)))))
        expected = x.permute(0, 2, 3, 1) + gamma * y

    def layer(module, key="kernel", axes=(1, 0)):
        weight = module.weight.detach().numpy()
        return {key: weight.transpose(axes), "bias": module.bias.detach().numpy()}

    params = {
        "depthwise": layer(depthwise, axes=(2, 3, 1, 0)),
        "norm": layer(norm, "scale", (0,)),
        "expand": layer(expand),
        "reduce": layer(reduce),
        "gamma": gamma.numpy(),
    }
    ours, _ = jax.jit(ConvNeXtBlock().apply)({"params": params}, jnp.asarray(x.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_convnext_small_equals_torchvision():
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.convnext_small(weights=None).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # layer scales of 1e-6 would hide the blocks
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = images(0, 64)
    with torch.no_grad():
        zero_one = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2) / 2 + 0.5
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = model((zero_one - mean) / std).numpy()
    loaded = perceptual.load_convnext(model.state_dict(), size=64)
    _, logits = jax.jit(ConvNeXt().apply)(loaded.variables, x)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def fallback():
    return perceptual.embedded_features()


def test_embedded_network_has_learned_the_digits_and_not_seen_the_held_out_ones(fallback):
    train, held_out = digits("train", 1), digits("eval", 1)
    seen, labels = embedded.training_digits()
    assert len(train) == len(seen) and len(held_out) == 297
    records = [train[i] for i in range(len(train))]
    np.testing.assert_allclose(np.stack([r["image"] for r in records]) / 127.5 - 1, seen, atol=1 / 127)
    np.testing.assert_array_equal([r["label"] for r in records], labels)
    records = [held_out[i] for i in range(len(held_out))]
    x = np.stack([r["image"] for r in records]) / np.float32(127.5) - 1
    _, logits = jax.jit(embedded.DigitFeatures().apply)(fallback.variables, x)
    assert np.mean(np.argmax(logits, -1) == np.array([r["label"] for r in records])) > 0.9


def test_embedded_distance_is_a_distance_between_images_of_any_size_and_channels(fallback):
    assert perceptual.embedded_features().variables is fallback.variables  # cached

    @jax.jit
    def run(variables, x, y):
        distance = lambda x, y: fallback.distance(variables, x, y)
        return distance(x, y), distance(x, x), jax.grad(lambda x: jnp.sum(distance(x, y)))(x)

    for size, channels in ((8, 1), (12, 3)):
        x, y = images(0, size, channels=channels), images(1, size, channels=channels)
        there, same, slope = jax.device_get(run(fallback.variables, x, y))
        assert there.shape == (2,)
        assert (there > 0).all()
        assert (same < 1e-12).all()
        assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_embedded_distance_is_the_mean_over_channels(fallback):
    x, y = images(0, 8), images(1, 8)
    distance = jax.jit(fallback.distance)
    single = [distance(fallback.variables, x[..., c : c + 1], y[..., c : c + 1]) for c in range(3)]
    np.testing.assert_allclose(distance(fallback.variables, x, y), sum(single) / 3, rtol=1e-5)
