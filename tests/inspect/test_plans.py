import pytest

from jaxtok.inspect.plans import plot_chip_memory, plot_least_times
from tests.inspect.rendering import render, texts

GB = 10**9


def test_bars_are_stacked_up_to_the_total():
    plans = {
        "4 x 1": {"refused": 11 * GB},
        "2 x 2": {"arguments": 2 * GB, "temporaries": 6 * GB, "code": 10**6},
        "1 x 4": {"arguments": 1 * GB, "temporaries": 12 * GB},
    }
    figure = plot_chip_memory(plans, 10 * GB)
    render(figure)
    ends = [[], [], []]
    for bar in figure.axes[0].patches:
        ends[round(bar.get_y() + bar.get_height() / 2)].append(bar.get_x() + bar.get_width())
    assert [max(row) for row in ends] == pytest.approx([11, 8.001, 13])
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(10)
    shown = set(texts(figure))
    assert {"11.0 GB, does not fit", "8.0 GB", "13.0 GB, does not fit", "refused", "temporaries"} <= shown
    assert "code" not in shown  # too little to be seen


def test_what_was_refused_does_not_fit_whatever_its_size():
    assert "9.9 GB, does not fit" in texts(plot_chip_memory({"a": {"refused": 9.9 * GB}}, 10 * GB))


def test_the_longest_time_is_named():
    plans = {"a": {"arithmetic": 0.01, "links": 0.02}, "b": {"arithmetic": 0.004, "links": 0.003}}
    figure = plot_least_times(plans)
    render(figure)
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([10, 4, 20, 3])
    shown = set(texts(figure))
    assert {"20 ms", "4 ms", "arithmetic", "links"} <= shown and not {"10 ms", "3 ms"} & shown


def test_nothing_or_too_much():
    for draw in (plot_least_times, lambda plans: plot_chip_memory(plans, GB)):
        with pytest.raises(ValueError, match="at least one plan"):
            draw({})
        with pytest.raises(ValueError, match="8 parts cannot be told apart"):
            draw({"a": {str(part): 1.0 for part in range(8)}})
