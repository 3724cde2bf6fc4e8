"""Curves as inline SVG, whose colours follow the page around them; everything else draws with Matplotlib."""

import html

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from jaxtok.inspect.curves import is_logarithmic, running_mean

_WIDTH, _HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 8, 8, 22
_MOST_POINTS = 400


def svg_curve(
    steps: np.ndarray, values: np.ndarray, *, smooth: int | float = 0.02, name: str = "", last: int = 0
) -> str:
    """One metric over the steps, as `training_curves` draws it; CSS classes `raw`, `smooth`, `axis`, `tick`.

    Args:
      steps: whole numbers [S], at least one.
      values: numbers [S].
      smooth: width of the running mean as a fraction of the curve's length.
      name: what a screen reader says.
      last: step at which the axis ends; 0 for the last one drawn.
    """
    finite = np.isfinite(values)
    kept, steps, values = values[finite], steps[finite], values[finite]
    if not len(kept):
        return f'<p class="absent">{html.escape(name)}: no finite value</p>'
    log = is_logarithmic(values)
    end = max(last, int(steps[-1]), 1)
    marks = _marks(float(values.min()), float(values.max()), log)
    scaled = (lambda v: np.log10(v)) if log else (lambda v: np.asarray(v, float))
    low, high = float(scaled(marks[0])), float(scaled(marks[-1]))
    low, high = min(low, float(scaled(values).min())), max(high, float(scaled(values).max()))
    span = high - low or 1.0

    def x(step):
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * np.asarray(step, float) / end

    def y(value):
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (scaled(value) - low) / span

    parts = []
    for mark in marks:
        height = float(y(mark))
        parts.append(
            f'<path class="axis" d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 5}" y="{height + 3.5:.1f}" text-anchor="end">{mark:.4g}</text>'
        )
    for step in MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end):
        if 0 <= step <= end:
            parts.append(
                f'<text class="tick" x="{float(x(step)):.1f}" y="{_HEIGHT - 6}" '
                f'text-anchor="{"end" if step > 0.95 * end else "middle"}">{step:,.0f}</text>'
            )
    if len(values) == 1:
        parts.append(
            f'<circle class="dot" cx="{float(x(steps[0])):.1f}" cy="{float(y(kept[0])):.1f}" r="3"/>'
        )
    else:
        width = max(1, round(smooth * len(values)))
        parts.append(_line("raw" if width > 1 else "smooth", x(steps), y(values)))
        if width > 1:
            parts.append(_line("smooth", x(steps), y(running_mean(values, width))))
    label = html.escape(f"{name}: from {kept[0]:.4g} to {kept[-1]:.4g}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _marks(low: float, high: float, log: bool) -> np.ndarray:
    """Two to five round values in or just around the range."""
    if log:
        found = np.asarray(LogLocator(numticks=5).tick_values(low, high))
        inside = found[(found >= low) & (found <= high)]
        return inside if len(inside) > 1 else np.array([low, high])
    if low == high:
        return np.array([low])
    found = np.asarray(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    inside = found[(found >= low) & (found <= high)]
    return inside if len(inside) > 1 else found


def _line(kind: str, x: np.ndarray, y: np.ndarray) -> str:
    """A polyline; of a long curve the lowest and the highest point of each stretch, so that spikes stay."""
    if len(x) > _MOST_POINTS:
        chosen = []
        for stretch in np.array_split(np.arange(len(x)), _MOST_POINTS // 2):
            chosen += sorted({stretch[np.argmin(y[stretch])], stretch[np.argmax(y[stretch])]})
        x, y = x[chosen], y[chosen]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
    return f'<polyline class="{kind}" points="{points}"/>'
