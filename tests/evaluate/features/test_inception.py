"""InceptionV3 of FID: sizes, the converter, and parity with a statement in PyTorch on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.evaluate.features import inception
from jaxtok.evaluate.resizing import resize_weights
from jaxtok.weights import flatten, load_table, save_table

IMAGE = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)


@pytest.fixture(scope="module")
def shapes():
    return inception.inception_shapes()


def random_tensors(shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """An official state dict whose features keep their size through the layers."""
    rng, params = np.random.default_rng(seed), {}
    for path, leaf in flatten(shapes["params"]).items():
        name = path.rpartition("/")[2]
        value = rng.standard_normal(leaf.shape, np.float32)
        if name in ("kernel", "fc_kernel"):
            value *= np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        elif name in ("scale", "variance"):
            value = np.float32(0.7) + np.abs(value) / 3
        else:
            value /= 10
        params[path] = value
    names = {entry.ours: entry for entry in inception.inception_table().entries}
    return {entry.theirs: entry.transform.backward(params[path]) for path, entry in names.items()}


def test_size_and_shapes_are_the_published_ones(shapes):
    flat = flatten(shapes["params"])
    statistics = ("/mean", "/variance")
    learned = sum(leaf.size for path, leaf in flat.items() if not path.endswith(statistics))
    # 23,834,568 of InceptionV3 without its auxiliary classifier, and eight classes more.
    assert learned == 23_834_568 + 8 * 2049
    taps, state = jax.eval_shape(
        lambda v, x: inception.InceptionV3().apply(v, x, capture_intermediates=True), shapes, IMAGE
    )
    assert [tap.shape for tap in taps] == [
        (2, 64), (2, 192), (2, 768), (2, 2048), (2, 1008), (2, 1008), (2, 17, 17, 7)
    ]  # fmt: skip
    maps = state["intermediates"]
    grids = {name: found["__call__"][0].shape[1:] for name, found in maps.items() if name != "__call__"}
    assert grids["Conv2d_2b_3x3"] == (147, 147, 64) and grids["Conv2d_4a_3x3"] == (71, 71, 192)
    assert grids["Mixed_5b"] == (35, 35, 256) and grids["Mixed_5d"] == (35, 35, 288)
    assert {grids[f"Mixed_6{c}"] for c in "abcde"} == {(17, 17, 768)}
    assert grids["Mixed_7a"] == (8, 8, 1280) and grids["Mixed_7c"] == (8, 8, 2048)


def test_the_converter_is_strict_and_inverts(shapes):
    tensors = random_tensors(shapes)
    assert len(tensors) == 94 * 5 + 2
    assert tensors["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert tensors["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert tensors["fc.weight"].shape == (1008, 2048)
    counted = {**tensors, "Mixed_5b.branch1x1.bn.num_batches_tracked": np.zeros((), np.int64)}
    variables = inception.load_inception(counted)
    again = save_table(inception.inception_table(), variables["params"], {})
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    del counted["Mixed_6d.branch1x1.bn.running_var"]
    counted |= {"AuxLogits.fc.weight": np.zeros(3), "fc.bias": np.zeros(1000, np.float32)}
    with pytest.raises(
        ValueError, match=r"(?s)Mixed_6d.branch1x1.bn.running_var.*AuxLogits.*fc.bias \(1000,\)"
    ):
        load_table(inception.inception_table(), counted, shapes["params"])


def test_small_or_grey_images_are_refused(shapes):
    for shape in ((1, 74, 299, 3), (1, 299, 299, 1)):
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        with pytest.raises(ValueError, match="RGB of at least 75 x 75"):
            jax.eval_shape(inception.InceptionV3().apply, shapes, image)


class Recorder:
    """In place of the network: what it is shown."""

    def apply(self, variables, x):
        rows = x[:, :: x.shape[1] - 1, 0].reshape(len(x), -1)  # two corners, RGB
        return inception.InceptionTaps(*[rows] * 3, rows, rows + 1, rows + 2, x[:, :1, :1])


@pytest.mark.parametrize("preprocessing", ["tf1", "torch"])
def test_preprocessing_and_what_is_read_off(monkeypatch, preprocessing):
    monkeypatch.setattr(inception, "InceptionV3", Recorder)
    monkeypatch.setattr(inception, "load_inception", lambda source: {"params": {"a": np.ones(2)}})
    network = inception.inception_network({}, preprocessing, batch=2)
    images = np.zeros((3, 40, 64, 3), np.uint8)
    images[:, :, :, 1], images[:, -1, :, 2] = 255, 64
    found = network(images)
    low, high = (-1, 127 / 128) if preprocessing == "tf1" else (-1, 1)
    scale = (lambda v: (v - 128) / 128) if preprocessing == "tf1" else (lambda v: 2 * v / 255 - 1)
    expected = [low, high, low, low, high, scale(64)]
    np.testing.assert_allclose(found.pooled, [expected] * 3, atol=1e-6)
    np.testing.assert_allclose(found.logits, found.pooled + 1, atol=1e-6)
    assert found.spatial.shape == (3, 3)
    grey = network(images[..., :1])
    assert grey.pooled.shape == (3, 6) and (grey.pooled == low).all()
    assert (
        network.protocol["resize"] == f"{preprocessing} to 299x299"
        and network.title("frechet", "r") == "rfid"
    )


def torch_inception(torch, tensors, x):
    """The network layer by layer in PyTorch: the taps of torch-fidelity, and of ADM's sFID."""
    functional = torch.nn.functional

    def layer(x, name, stride=1, padding=0):
        x = functional.conv2d(x, tensors[f"{name}.conv.weight"], None, stride, padding)
        mean, variance, weight, bias = (
            tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, 1e-3))

    def average(x):
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def halved(x):
        return functional.max_pool2d(x, 3, 2)

    def block_a(x, n):
        one = layer(x, f"{n}.branch1x1")
        five = layer(layer(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", padding=2)
        three = layer(layer(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        three = layer(three, f"{n}.branch3x3dbl_3", padding=1)
        return torch.cat([one, five, three, layer(average(x), f"{n}.branch_pool")], 1)

    def block_c(x, n):
        seven = layer(layer(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", padding=(0, 3))
        seven = layer(seven, f"{n}.branch7x7_3", padding=(3, 0))
        double = layer(layer(x, f"{n}.branch7x7dbl_1"), f"{n}.branch7x7dbl_2", padding=(3, 0))
        double = layer(double, f"{n}.branch7x7dbl_3", padding=(0, 3))
        double = layer(double, f"{n}.branch7x7dbl_4", padding=(3, 0))
        double = layer(double, f"{n}.branch7x7dbl_5", padding=(0, 3))
        pool = layer(average(x), f"{n}.branch_pool")
        return torch.cat([layer(x, f"{n}.branch1x1"), seven, double, pool], 1)

    def block_e(x, n, pooled):
        three = layer(x, f"{n}.branch3x3_1")
        double = layer(layer(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        parts = [layer(x, f"{n}.branch1x1")]
        for name, part in (("branch3x3_2", three), ("branch3x3dbl_3", double)):
            parts += [
                layer(part, f"{n}.{name}a", padding=(0, 1)),
                layer(part, f"{n}.{name}b", padding=(1, 0)),
            ]
        return torch.cat([*parts, layer(pooled, f"{n}.branch_pool")], 1)

    x = layer(layer(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3")
    x = halved(layer(x, "Conv2d_2b_3x3", padding=1))
    taps = [x.mean((2, 3))]
    x = halved(layer(layer(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
    taps.append(x.mean((2, 3)))
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block_a(x, name)
    double = layer(layer(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2", padding=1)
    double = layer(double, "Mixed_6a.branch3x3dbl_3", 2)
    x = torch.cat([layer(x, "Mixed_6a.branch3x3", 2), double, halved(x)], 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d"):
        x = block_c(x, name)
    spatial = x[:, :7]
    x = block_c(x, "Mixed_6e")
    taps.append(x.mean((2, 3)))
    three = layer(layer(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2)
    seven = layer(layer(x, "Mixed_7a.branch7x7x3_1"), "Mixed_7a.branch7x7x3_2", padding=(0, 3))
    seven = layer(layer(seven, "Mixed_7a.branch7x7x3_3", padding=(3, 0)), "Mixed_7a.branch7x7x3_4", 2)
    x = torch.cat([three, seven, halved(x)], 1)
    x = block_e(x, "Mixed_7b", average(x))
    x = block_e(x, "Mixed_7c", functional.max_pool2d(x, 3, 1, 1))
    pooled = x.mean((2, 3))
    unbiased = pooled @ tensors["fc.weight"].T
    return [*taps, pooled, unbiased, unbiased + tensors["fc.bias"], spatial.permute(0, 2, 3, 1)]


@pytest.mark.slow
def test_parity_with_torch_with_either_preprocessing(shapes):
    torch = pytest.importorskip("torch")
    tensors = random_tensors(shapes)
    theirs = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    images = np.random.default_rng(1).integers(0, 256, (1, 40, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels / 255, (299, 299), mode="bilinear", align_corners=False)

    # TensorFlow 1 has no half pixels: every new pixel lies at its index times old / new.
    rows, columns = (np.arange(299) * old / 299 for old in (40, 64))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = np.minimum(top + 1, 39), np.minimum(left + 1, 63)
    x, across = images.astype(np.float64), (columns - left)[:, None]
    upper = x[:, top][:, :, left] * (1 - across) + x[:, top][:, :, right] * across
    lower = x[:, down][:, :, left] * (1 - across) + x[:, down][:, :, right] * across
    below = (rows - top)[:, None, None]
    legacy = torch.from_numpy((upper * (1 - below) + lower * below).astype(np.float32))
    legacy = ((legacy - 128) / 128).permute(0, 3, 1, 2)

    with torch.no_grad():
        expected = [
            tap.numpy() for tap in torch_inception(torch, theirs, torch.cat([2 * resized - 1, legacy]))
        ]
    assert np.abs(np.diff(expected[3], axis=0)).max() > 1e-3 * np.abs(expected[3]).max()

    def shown(method):
        to = [jnp.asarray(resize_weights(old, 299, method), jnp.float32) for old in (40, 64)]
        pixels = jnp.einsum("yh,bhwc,xw->byxc", to[0], images.astype(np.float32), to[1], precision="highest")
        return inception.scaled(pixels, method)

    taps = jax.jit(inception.InceptionV3().apply)(
        inception.load_inception(tensors), jnp.concatenate([shown("torch"), shown("tf1")])
    )
    for name, ours, other in zip(taps._fields, taps, expected):
        assert np.std(other) > 1e-3, name
        np.testing.assert_allclose(ours, other, atol=1e-4 * np.abs(other).max(), err_msg=name)
