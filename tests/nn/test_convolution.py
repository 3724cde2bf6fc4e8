import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.convolution import (
    AdaptiveGroupNorm,
    Downsample,
    GridAttention,
    GroupNorm,
    ResidualBlock,
    Upsample,
)
from tests.filled import filled, normal


def test_every_group_of_channels_has_mean_zero_and_variance_one():
    x = 3 * normal(2, 4, 5, 6) + 1
    y = GroupNorm(groups=3, affine=False).apply({}, x)
    groups = np.asarray(y).reshape(2, 20, 3, 2)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-5)
    with pytest.raises(ValueError, match="6 channels do not divide into groups=4"):
        GroupNorm(groups=4).init(jax.random.key(0), x)


def test_the_style_sets_scale_and_bias():
    module, x, style = AdaptiveGroupNorm(groups=2), normal(2, 4, 4, 4), normal(2, 2, 3, 5, seed=1)
    params = filled(module, x, style)
    y = module.apply(params, x, style)
    deviation = np.sqrt(np.var(style, axis=(1, 2), ddof=1) + 1e-6)
    p = jax.tree.map(np.asarray, params["params"])
    gamma = deviation @ p["gamma"]["kernel"] + p["gamma"]["bias"]
    beta = np.mean(style, axis=(1, 2)) @ p["beta"]["kernel"] + p["beta"]["bias"]
    plain = GroupNorm(groups=2, affine=False).apply({}, x)
    np.testing.assert_allclose(y, plain * gamma[:, None, None] + beta[:, None, None], atol=1e-5)
    with pytest.raises(ValueError, match="has no variance"):
        module.apply(params, x, style[:, :1, :1])


def test_a_shortcut_reads_the_input_or_the_branch():
    x, silent = normal(1, 4, 4, 4), {}
    for kind in ("input", "branch"):
        module = ResidualBlock(8, kind, use_bias=False, groups=4)
        params = filled(module, x)["params"]
        params["conv_2"] = jax.tree.map(jnp.zeros_like, params["conv_2"])
        silent[kind] = module.apply({"params": params}, x), params["shortcut"]["kernel"][0, 0]
    y, kernel = silent["input"]
    np.testing.assert_allclose(y, x @ kernel, atol=1e-5)
    np.testing.assert_array_equal(silent["branch"][0], 0)  # what the branch does not say is lost
    with pytest.raises(ValueError, match="shortcut='both'"):
        ResidualBlock(8, "both", groups=4).init(jax.random.key(0), x)


def test_a_residual_block_of_one_width_is_the_identity_where_its_branch_is_silent():
    x, module = normal(1, 3, 3, 4), ResidualBlock(4, "branch", groups=2)
    params = filled(module, x)["params"]
    params["conv_2"] = jax.tree.map(jnp.zeros_like, params["conv_2"])
    assert "shortcut" not in params
    np.testing.assert_array_equal(module.apply({"params": params}, x), x)


def test_attention_does_not_know_where_a_cell_is():
    x, module = normal(2, 3, 4, 8), GridAttention(groups=2)
    params = filled(module, x)
    apply = jax.jit(module.apply)
    order = np.random.default_rng(0).permutation(12)
    shuffled = x.reshape(2, 12, 8)[:, order].reshape(x.shape)
    expected = apply(params, x).reshape(2, 12, 8)[:, order].reshape(x.shape)
    np.testing.assert_allclose(apply(params, shuffled), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind, first, last", [("conv_end", 0, 2), ("conv_centre", -1, 1), ("conv_wide", -1, 2)]
)
def test_windows_of_halvings_start_and_end_where_they_should(kind, first, last):
    module, x = Downsample(kind), normal(1, 8, 8, 1)
    params = jax.tree.map(jnp.abs, filled(module, x))  # no term cancels another
    moved = jax.jacobian(lambda x: module.apply(params, x)[0, 1, 1, 0])(x)[0, :, :, 0]
    rows = np.flatnonzero(np.abs(moved).sum(axis=1))
    assert (rows[0], rows[-1]) == (2 + first, 2 + last)
    assert module.apply(params, x).shape == (1, 4, 4, 1)


def test_pooling_is_the_mean_and_has_no_parameters():
    x = normal(1, 4, 6, 2)
    y = Downsample("pool").apply({}, x)
    np.testing.assert_allclose(y[0, 1, 2], x[0, 2:4, 4:6].mean(axis=(0, 1)), atol=1e-6)


def test_a_shuffle_lays_channels_out_row_column_channel():
    module, x = Upsample("shuffle"), normal(1, 2, 2, 3)
    params = jax.tree.map(jnp.zeros_like, filled(module, x))
    params["params"]["conv"]["bias"] = jnp.arange(12.0)
    y = module.apply(params, x)
    expected = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(y[0], np.tile(expected, (2, 2, 1)))


def test_doubling_by_repetition():
    module, x = Upsample("nearest"), normal(1, 2, 3, 2)
    params = jax.tree.map(jnp.zeros_like, filled(module, x))
    kernel = params["params"]["conv"]["kernel"].at[1, 1].set(jnp.eye(2))  # leaves a grid as it is
    params["params"]["conv"]["kernel"] = kernel
    y = module.apply(params, x)
    np.testing.assert_allclose(y, np.repeat(np.repeat(x, 2, 1), 2, 2), atol=1e-6)


def test_what_cannot_be_halved_or_doubled_is_said():
    with pytest.raises(ValueError, match="a grid of 3x4 cells cannot be halved"):
        Downsample().init(jax.random.key(0), normal(1, 3, 4, 2))
    with pytest.raises(ValueError, match="down='max'"):
        Downsample("max").init(jax.random.key(0), normal(1, 4, 4, 2))
    with pytest.raises(ValueError, match="up='bilinear'"):
        Upsample("bilinear").init(jax.random.key(0), normal(1, 4, 4, 2))
