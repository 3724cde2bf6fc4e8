import numpy as np
import pytest

from jaxtok.evaluate.streaming import StreamingMean


def test_padding_rows_leave_no_trace_even_when_nan():
    mean = StreamingMean()
    mean.update(np.array([1.0, np.nan, 3.0], np.float32), np.array([True, False, True]))
    mean.update(np.array([5.0], np.float32))
    assert (mean.value, mean.count) == (3.0, 3)
    np.testing.assert_allclose(mean.standard_error, np.std([1, 3, 5], ddof=1) / np.sqrt(3))


def test_sums_are_float64():
    mean = StreamingMean()
    mean.update(np.full(1, 2**24, np.float32))
    for _ in range(1000):
        mean.update(np.ones(1, np.float32))
    assert mean.total == 2**24 + 1000


def test_errors():
    mean = StreamingMean()
    with pytest.raises(ValueError, match="no examples"):
        _ = mean.value
    with pytest.raises(ValueError, match="bool\\[2\\]"):
        mean.update(np.ones(2), np.ones(3, bool))
    with pytest.raises(ValueError, match="one value per example"):
        mean.update(np.ones((2, 2)))
