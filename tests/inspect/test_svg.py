import re

import numpy as np

from jaxtok.inspect.svg import svg_curve


def points(svg, kind):
    """[S, 2] of the line of a kind."""
    found = re.search(rf'<polyline class="{kind}" points="([^"]*)"', svg)
    return np.array([[float(v) for v in pair.split(",")] for pair in found[1].split()])


def test_a_straight_line_is_straight():
    line = points(svg_curve(np.arange(1, 11), np.linspace(2, 3, 10), name="loss"), "smooth")
    assert line.shape == (10, 2)
    slopes = np.diff(line[:, 1]) / np.diff(line[:, 0])
    assert slopes.max() < 0 and np.ptp(slopes) < 0.02, "up in the picture is a smaller y"


def test_powers_are_straight_on_a_logarithmic_axis():
    svg = svg_curve(np.arange(1, 7), 10.0 ** np.arange(6))
    assert np.ptp(np.diff(points(svg, "smooth")[:, 1])) < 0.2
    assert {">1<", ">100<", ">1e+04<"} <= set(re.findall(">[^<]+<", svg))


def test_long_curves_keep_their_spikes():
    values = np.ones(5000)
    values[3217] = 9.0
    svg = svg_curve(np.arange(5000), values)
    raw = points(svg, "raw")
    assert len(raw) <= 400 and raw[:, 1].min() < raw[:, 1].max() - 100
    assert np.ptp(points(svg, "smooth")[:, 1]) < 10


def test_the_axis_goes_on_to_the_last_step():
    short, long = (
        points(svg_curve(np.array([1, 50]), np.array([1.0, 2.0]), last=end), "smooth") for end in (50, 100)
    )
    assert short[1, 0] > long[1, 0] + 100


def test_one_value_constants_and_holes():
    assert "circle" in svg_curve(np.array([5]), np.array([0.0]))
    assert np.ptp(points(svg_curve(np.arange(3), np.zeros(3)), "smooth")[:, 1]) == 0
    holes = svg_curve(np.arange(4), np.array([1.0, np.nan, np.inf, 2.0]), name="a<b")
    assert len(points(holes, "smooth")) == 2 and "a&lt;b" in holes
    assert "no finite value" in svg_curve(np.array([1]), np.array([np.nan]), name="loss")
