import numpy as np
import pytest

from jaxtok.evaluate import distributions as measure
from tests.evaluate.sheet import A, B

RANDOM = np.random.default_rng(0)


def test_values_of_the_sheet():
    assert measure.squared_mmd(A, B) == pytest.approx(-0.036924204969, abs=1e-9)
    assert measure.kernel_distance(A, B) == pytest.approx((-0.036924204969, 0), abs=1e-9)
    assert measure.class_score(3 * A, splits=1).mean == pytest.approx(1.633963362999, abs=1e-9)
    assert measure.precision_recall(A, B) == (0.96875, 0.640625)
    assert measure.density_coverage(A, B) == (1.109375, 0.90625)


def test_blocks_do_not_change_neighbours(monkeypatch):
    monkeypatch.setattr(measure, "_BLOCK", 64 * 7)
    assert measure.precision_recall(A, B) == (0.96875, 0.640625)
    assert measure.density_coverage(A, B) == (1.109375, 0.90625)


def test_kernel_distance_over_subsets():
    x, y = RANDOM.normal(size=(300, 4)), RANDOM.normal(size=(200, 4)) + 0.5
    found = measure.kernel_distance(x, y, subsets=50, subset_size=100)
    assert found.mean == pytest.approx(measure.squared_mmd(x, y), abs=3 * found.deviation / np.sqrt(50))
    assert found.deviation > 0 and found == measure.kernel_distance(x, y, subsets=50, subset_size=100)
    assert found != measure.kernel_distance(x, y, subsets=50, subset_size=100, seed=1)
    same = [measure.squared_mmd(RANDOM.normal(size=(50, 4)), RANDOM.normal(size=(50, 4))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200) and min(same) < 0  # unbiased


def test_class_score_has_its_bounds():
    assert measure.class_score(np.ones((50, 7))).mean == pytest.approx(1, abs=1e-12)
    sure = 1e4 * np.eye(7)[np.tile(np.arange(7), 20)]  # softmax underflows to exact zeros
    assert measure.class_score(sure, splits=1).mean == pytest.approx(7, rel=1e-12)
    assert measure.class_score(sure, splits=20, shuffle_seed=None) == pytest.approx((7, 0))
    shuffled = measure.class_score(sure, splits=20)
    assert shuffled.mean < 7 and shuffled.deviation > 0  # parts without some classes
    assert measure.class_score(sure + 1e5, splits=20) == pytest.approx(shuffled)


def test_a_narrow_set_is_precise_and_recalls_little():
    real, narrow = RANDOM.normal(size=(500, 8)), 0.05 * RANDOM.normal(size=(500, 8))
    found = measure.precision_recall(narrow, real)
    assert found.precision > 0.8 and found.recall < 0.3
    back = measure.precision_recall(real, narrow)
    assert (back.precision, back.recall) == (found.recall, found.precision)
    assert measure.precision_recall(real, real) == (1, 1)
    assert measure.density_coverage(narrow, real).coverage < 0.9
    assert measure.density_coverage(real, real).coverage == 1


def test_duplicates_and_large_offsets_do_not_hide_the_row_itself():
    rows = RANDOM.normal(size=(20, 3)).astype(np.float32).repeat(2, axis=0) + 1e4
    assert measure.precision_recall(rows, rows, neighbours=1) == (1, 1)
    assert measure.density_coverage(rows, rows, neighbours=1).coverage == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: measure.squared_mmd(A[:1], B), "at least two of each"),
        (lambda: measure.squared_mmd(A, B[:, :2]), "3 and 2 dimensions"),
        (lambda: measure.kernel_distance(A, B, subsets=0), "subsets=0"),
        (lambda: measure.class_score(A, splits=65), "64 rows in splits=65"),
        (lambda: measure.precision_recall(A, B[:3]), "neighbours=3 of 3 rows; choose 1 to 2"),
        (lambda: measure.density_coverage(A, B[:, :2]), "use one feature network"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("offset", [1e3, 1e7, -1e9])
def test_neighbours_do_not_depend_on_where_zero_is(offset):
    assert measure.precision_recall(A + offset, B + offset) == (0.96875, 0.640625)
    assert measure.density_coverage(A + offset, B + offset) == (1.109375, 0.90625)


SETS = (measure.squared_mmd, measure.precision_recall, measure.density_coverage)


@pytest.mark.parametrize("metric", [*SETS, lambda x, y: (measure.class_score(x), measure.class_score(y))])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(metric, value):
    broken = A.copy()
    broken[3, 1] = value
    for x, y in ((broken, B), (B, broken)):
        with pytest.raises(ValueError, match=r"1 of .* are not finite"):
            metric(x, y)


@pytest.mark.parametrize("metric", SETS)
def test_empty_sets_are_refused(metric):
    for x, y in ((A[:0], B), (A, B[:0])):
        with pytest.raises(ValueError, match=r"no rows|at least two|neighbours="):
            metric(x, y)
