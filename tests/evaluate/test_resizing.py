import numpy as np
import pytest

from jaxtok.evaluate.resizing import area_resize, resize_weights


@pytest.mark.parametrize("method", ["area", "tf1", "torch"])
@pytest.mark.parametrize("old, new", [(8, 8), (5, 13), (13, 5), (1, 4), (32, 299)])
def test_weights_are_means_of_old_pixels(method, old, new):
    weights = resize_weights(old, new, method)
    assert weights.shape == (new, old) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    if old == new:
        np.testing.assert_allclose(weights, np.eye(old), atol=1e-12)


def test_the_two_bilinear_ones_differ_by_half_a_pixel():
    ramp = np.arange(4.0)
    np.testing.assert_allclose(resize_weights(4, 8, "tf1") @ ramp, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    half = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(resize_weights(4, 8, "torch") @ ramp, half)
    # Neither looks at more than two pixels: every other one is lost.
    np.testing.assert_allclose(resize_weights(8, 2, "tf1") @ np.arange(8), [0, 4])
    np.testing.assert_allclose(resize_weights(8, 2, "torch") @ np.arange(8), [1.5, 5.5])
    np.testing.assert_allclose(resize_weights(8, 2, "area") @ np.arange(8), [1.5, 5.5])


@pytest.mark.slow
def test_bilinear_equals_torch():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((2, 3, 7, 20), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image), (11, 9), mode="bilinear", align_corners=False
    )
    rows, columns = resize_weights(7, 11, "torch"), resize_weights(20, 9, "torch")
    # PyTorch's places are float32.
    np.testing.assert_allclose(rows @ image @ columns.T, expected.numpy(), atol=3e-6)


def test_area_undoes_an_enlargement():
    image = np.random.default_rng(0).random((1, 4, 4, 2))
    np.testing.assert_allclose(area_resize(image.repeat(3, 1).repeat(3, 2), 4), image)


def test_sides_of_no_pixel_are_refused():
    with pytest.raises(ValueError, match="cannot resize 0 to 3 pixels"):
        resize_weights(0, 3, "area")
