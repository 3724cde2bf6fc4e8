import numpy as np
import pytest

from jaxtok.evaluate.retrieval import r_precision
from tests.evaluate.sheet import A, B


def test_values_of_the_sheet():
    found = r_precision(A[:32], A[:32] + 0.3 * B[:32], pool=32)
    assert found.precision == (0.59375, 0.84375, 0.96875)
    assert found.distance == pytest.approx(0.361036305561, abs=1e-9)


def test_pools_and_bounds():
    assert r_precision(A, A, pool=64, top=1).precision == (1.0,)
    assert r_precision(A, B, pool=8, top=8).precision[-1] == 1
    halves = [r_precision(A[part], B[part], pool=16) for part in (slice(0, 16), slice(16, 32))]
    whole = r_precision(A[:40], B[:40], pool=16)  # the last eight fill no pool
    np.testing.assert_allclose(whole.precision, np.mean([half.precision for half in halves], axis=0))
    assert whole.distance == pytest.approx(np.mean([half.distance for half in halves]))


def test_a_tie_is_no_find():
    same = np.ones((4, 2))
    assert r_precision(same, same, pool=4, top=3).precision == (0, 0, 0)


def test_errors():
    with pytest.raises(ValueError, match="1 <= top <= pool <= rows"):
        r_precision(A[:8], B[:8])
    with pytest.raises(ValueError, match="shapes must be equal"):
        r_precision(A, B[:32])
