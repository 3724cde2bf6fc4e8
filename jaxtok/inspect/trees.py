"""Latents, parameters and single arrays in a notebook, drawn by treescope; needs the extra `inspect`."""

from typing import Any

import numpy as np

from jaxtok.codes import Latents

_AXES = ("image", "token", "slot")


class Shown:
    """What a notebook displays when it is the last line of a cell.

    Attributes:
      html: self-contained.
    """

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def show(value: Any, *, largest: int = 4000, labels: dict[int, str] | None = None) -> Shown:
    """Draws a tree with a picture of each array in it: latents, parameters, metrics, or one array.

        show(system.encode(images))
        show(system.variables["tokenizer"]["params"])

    Codes are drawn with a colour and a pattern per value (hover to read it), floats by size around zero, and
    absent parts of latents are said to be absent. Large arrays are cut in their middle.

    Args:
      value: any tree; codes int [N, Q] and [B, N, Q] have named axes.
      largest: about how many elements of an array are drawn.
      labels: what code values mean (names of classes, texts of tokens), for an array of integers.

    Raises:
      ImportError: treescope is not installed.
    """
    try:
        import treescope
        from treescope import lowering
    except ImportError as error:
        raise ImportError('`show` draws with treescope: pip install "jaxtok[inspect]"') from error
    array = _integers(value)
    if array is not None:
        names = dict(enumerate(_AXES[3 - array.ndim :])) if array.ndim in (2, 3) else {}
        figure = treescope.render_array(
            array,
            rows=tuple(range(max(array.ndim - 1, 1)))[::-1],  # the innermost first
            columns=tuple(range(1, array.ndim))[-1:],
            axis_labels={axis: f"{name}: {array.shape[axis]}" for axis, name in names.items()},
            value_item_labels=labels,
            truncate=array.size > largest,
            maximum_size=largest,
            continuous=False,
        )
        return Shown(lowering.render_to_html_as_root(figure.treescope_part, compressed=False))
    if isinstance(value, Latents):
        value = {name: getattr(value, name) for name in ("codes", "values", "mask", "positions")}
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer(maximum_size=largest)):
        return Shown(treescope.render_to_html(value, compressed=False))


def _integers(value: Any) -> np.ndarray | None:
    """The value as an array of integers, if it is one."""
    if (
        not hasattr(value, "dtype")
        or not hasattr(value, "shape")
        or not np.issubdtype(value.dtype, np.integer)
    ):
        return None
    return np.asarray(value)
