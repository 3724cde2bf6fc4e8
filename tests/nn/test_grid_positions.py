import jax
import numpy as np
import pytest

from jaxtok.nn.grid_positions import GridPositions, sincos_grid
from tests.filled import filled, normal


def test_fixed_positions_are_no_parameters_and_are_cut():
    module = GridPositions((3, 2), 8)
    variables = module.init(jax.random.key(0), (3, 2))
    assert set(variables) == {"constants"}
    table = sincos_grid(3, 2, 8)
    np.testing.assert_allclose(
        table[2, 1],
        np.ravel([f(a * np.asarray([1, 0.01])) for a in (2, 1) for f in (np.sin, np.cos)]),
        atol=1e-6,
    )
    np.testing.assert_array_equal(module.apply(variables, (3, 2)), table.reshape(-1, 8))
    np.testing.assert_array_equal(module.apply(variables, (2, 1)), table[:2, 0])


def test_learned_positions_are_sums_of_those_of_their_axes():
    module = GridPositions((3, 2), 4, "learned")
    variables = filled(module, (3, 2))
    table = variables["params"]["positions"]
    expected = table[0, :2, None] + table[1, None, :2]
    np.testing.assert_allclose(module.apply(variables, (2, 2)), expected.reshape(4, 4), atol=1e-6)


def test_interpolated_positions_keep_a_whole_grid_and_stretch_others():
    module = GridPositions((4,), 2, "learned", "interpolate")
    variables = {"params": {"positions": normal(1, 4, 2)}}
    table = np.asarray(variables["params"]["positions"][0])
    np.testing.assert_allclose(module.apply(variables, (4,)), table, atol=1e-6)
    np.testing.assert_allclose(module.apply(variables, (2,)), table[[0, 3]], atol=1e-6)  # corners on corners
    np.testing.assert_allclose(module.apply(variables, (1,)), table[:1], atol=1e-6)
    larger = module.apply(variables, (7,))
    np.testing.assert_allclose(larger[::2], table, atol=1e-6)
    np.testing.assert_allclose(larger[1::2], (table[1:] + table[:-1]) / 2, atol=1e-6)


@pytest.mark.slow  # parity
@pytest.mark.parametrize("kind, size", [("sincos", (5, 7)), ("sincos", (2, 1)), ("learned", (3, 6))])
def test_interpolated_positions_are_those_of_pytorch(kind, size):
    torch = pytest.importorskip("torch")
    module = GridPositions((4, 3), 8, kind, "interpolate")
    variables = filled(module, size)
    if kind == "sincos":
        whole = variables["constants"]["positions"]
    else:
        first, second = variables["params"]["positions"]
        whole = first[:, None] + second[None, :3]
    image = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=True)
    found = module.apply(variables, size).reshape(*size, 8)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_positions_that_are_not_there_are_refused():
    module = GridPositions((3, 2), 8)
    with pytest.raises(ValueError, match="a grid of 4x2 cells, but positions are there for 3x2"):
        module.apply({"constants": {"positions": sincos_grid(3, 2, 8)}}, (4, 2))
    with pytest.raises(ValueError, match="width=6 must divide by 4"):
        sincos_grid(2, 2, 6)
    with pytest.raises(ValueError, match="two axes"):
        filled(GridPositions((3,), 8), (3,))
    with pytest.raises(ValueError, match="kind='rotary'"):
        filled(GridPositions((3, 2), 8, "rotary"), (3, 2))
