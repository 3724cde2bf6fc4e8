import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.language.orders import ORDERS, grid_order, shuffled
from jaxtok.evaluate.language.tokens import token_ids


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 7), (16, 2)])
def test_every_cell_is_read_once(kind, height, width):
    order = grid_order(kind, height, width)
    assert sorted(order.tolist()) == list(range(height * width))


def test_known_orders():
    assert grid_order("columns", 2, 3).tolist() == [0, 3, 1, 4, 2, 5]
    assert grid_order("random", 2, 3, seed=1).tolist() == grid_order("random", 2, 3, seed=1).tolist()
    rows, columns = np.divmod(grid_order("hilbert", 8, 8), 8)
    steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
    assert np.all(steps == 1)  # the curve never jumps
    with pytest.raises(ValueError, match="choose one of"):
        grid_order("snake", 2, 2)


def test_shuffles_keep_single_tokens():
    tokens = np.arange(20).reshape(4, 5)
    mask = tokens % 3 > 0
    mixed = shuffled(tokens, 0, mask)
    np.testing.assert_array_equal(mixed[~mask], tokens[~mask])
    assert sorted(mixed[mask]) == sorted(tokens[mask]) and not np.array_equal(mixed, tokens)


def test_ids_of_whole_tokens():
    codes = np.array([[[1, 2], [0, 0]], [[1, 2], [2, 1]]])
    assert token_ids(codes, CodeSpace((3, 4))).tolist() == [[7, 0], [7, 5]]
    wide = np.zeros((1, 3, 64), np.int32)
    wide[0, 1, 63] = 1
    assert token_ids(wide, CodeSpace.binary(64)).tolist() == [[0, 1, 0]]  # too many values for an integer
    with pytest.raises(ValueError, match="have not the 3 slots"):
        token_ids(codes, CodeSpace((3, 4, 5)))
