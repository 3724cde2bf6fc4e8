import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.patches import average_pool, nearest_upsample, patchify, pixel_shuffle, unpatchify


def counted(*shape):
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def test_patches_go_row_by_row_and_are_flattened_row_column_channel():
    images = counted(1, 4, 6, 2)
    patches = patchify(images, 2)
    assert patches.shape == (1, 6, 8)
    np.testing.assert_array_equal(patches[0, 1], np.asarray(images)[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2, 3, 2), images)


def test_an_image_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="5x4 do not divide into 2x2"):
        patchify(jnp.zeros((1, 5, 4, 1)), 2)


def test_pixel_shuffle_reads_channel_row_column():
    x = counted(1, 1, 1, 8)
    np.testing.assert_array_equal(pixel_shuffle(x)[0, :, :, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(pixel_shuffle(x)[0, :, :, 1], [[4, 5], [6, 7]])


def test_pooling_undoes_upsampling():
    x = counted(2, 3, 2, 4)
    np.testing.assert_array_equal(average_pool(nearest_upsample(x)), x)
    np.testing.assert_array_equal(average_pool(counted(1, 2, 2, 1)), [[[[1.5]]]])
