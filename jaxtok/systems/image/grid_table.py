"""Weight tables of convolutional grids: one list of layers, and what each code base calls them.

The released tokenizers share their layers and differ in names. Templates may use {l} for the level, {j} for
the number of a block in it, {n} for that number from one, and {m} for the place in the middle, where the
attention counts as well.
"""

import dataclasses
from typing import Literal

from jaxtok.tokenizers.grid import GridShape
from jaxtok.weights import Entry, conv, dense, patch_dense


@dataclasses.dataclass(frozen=True)
class GridNames:
    """What a code base calls the layers of one half of a tokenizer.

    Attributes:
      block: a residual block of a level.
      attention: the attention behind it.
      resample: the convolution that halves or doubles the grid after a level.
      middle: a residual block of the middle.
      middle_attention: its attention.
      adaptive: the normalisation before a level, which has "gamma" and "beta".
      coarse_first: whether levels are counted from the coarsest.
      norm_out: the last normalisation.
      shortcut: the convolution on the shortcut of a residual block.
      attention_norm: the normalisation of an attention.
      attention_maps: its query, key, value and output.
      attention_linear: whether those are linear maps, not convolutions.
    """

    block: str
    resample: str
    middle: str = "mid.{m}"
    attention: str = ""
    middle_attention: str = ""
    adaptive: str = ""
    coarse_first: bool = False
    norm_out: str = "norm_out"
    shortcut: str = "nin_shortcut"
    attention_norm: str = "norm"
    attention_maps: tuple[str, str, str, str] = ("q", "k", "v", "proj_out")
    attention_linear: bool = False


def conv_entries(theirs: str, ours: str, bias: bool = True) -> list[Entry]:
    """Weight and bias of a convolution."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", conv)]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias")] if bias else entries


def dense_entries(theirs: str, ours: str, inputs: int | None = None) -> list[Entry]:
    """Weight and bias of a linear map; of a 1x1 convolution of `inputs` channels, if they are given."""
    transform = dense if inputs is None else patch_dense(1, inputs)
    return [Entry(f"{theirs}.weight", f"{ours}/kernel", transform), Entry(f"{theirs}.bias", f"{ours}/bias")]


def norm_entries(theirs: str, ours: str) -> list[Entry]:
    """Scale and bias of a normalisation."""
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def grid_entries(
    shape: GridShape,
    half: Literal["encoder", "decoder"],
    names: GridNames,
    theirs: str | None = None,
    ours: str | None = None,
) -> list[Entry]:
    """All layers of one half.

    Args:
      shape: its size.
      half: which half.
      names: of its layers.
      theirs: what the half is called in the official file; default `half`.
      ours: and in our tree; default `half`.
    """
    theirs, ours = f"{theirs or half}.", f"{ours or half}/"
    decoding = half == "decoder"
    entries = [
        *conv_entries(f"{theirs}conv_in", f"{ours}conv_in", decoding or shape.use_bias),
        *norm_entries(f"{theirs}{names.norm_out}", f"{ours}norm"),
        *conv_entries(f"{theirs}conv_out", f"{ours}conv_out"),
    ]
    last = len(shape.multipliers) - 1
    width = shape.widths[-1] if decoding else shape.channels
    for index in range(last, -1, -1) if decoding else range(last + 1):
        level, before = last - index if names.coarse_first else index, f"{ours}level_{index}"
        if decoding and shape.adaptive:
            for part in ("gamma", "beta"):
                entries += dense_entries(
                    f"{theirs}{names.adaptive.format(l=level)}.{part}", f"{before}/adaptive/{part}"
                )
        for j in range(shape.blocks):
            entries += _block(
                theirs + names.block.format(l=level, j=j, n=j + 1),
                f"{before}/block_{j}",
                shape,
                names,
                width != shape.widths[index],
            )
            width = shape.widths[index]
            if index in shape.attention:
                name = names.attention.format(l=level, j=j, n=j + 1)
                entries += _attention(theirs + name, f"{before}/attention_{j}", names, width)
        if decoding and index:
            entries += conv_entries(theirs + names.resample.format(l=level), f"{before}/up/conv")
        if not decoding and index < last and shape.down != "pool":
            entries += conv_entries(theirs + names.resample.format(l=level), f"{before}/down/conv")
    for j in range(shape.middle):
        place = j + (shape.middle_attention and j > 0)
        name = names.middle.format(j=j, n=j + 1, m=place)
        entries += _block(theirs + name, f"{ours}middle_{j}", shape, names, projected=False)
    if shape.middle_attention:
        name = names.middle_attention.format(m=1)
        entries += _attention(theirs + name, f"{ours}middle_attention", names, shape.widths[-1])
    return entries


def _block(theirs: str, ours: str, shape: GridShape, names: GridNames, projected: bool) -> list[Entry]:
    entries = []
    for i in (1, 2):
        entries += norm_entries(f"{theirs}.norm{i}", f"{ours}/norm_{i}")
        entries += conv_entries(f"{theirs}.conv{i}", f"{ours}/conv_{i}", shape.use_bias)
    if projected:
        entries += conv_entries(f"{theirs}.{names.shortcut}", f"{ours}/shortcut", shape.use_bias)
    return entries


def _attention(theirs: str, ours: str, names: GridNames, width: int) -> list[Entry]:
    entries = norm_entries(f"{theirs}.{names.attention_norm}", f"{ours}/norm")
    inputs = None if names.attention_linear else width
    for a, b in zip(names.attention_maps, ("query", "key", "value", "out"), strict=True):
        entries += dense_entries(f"{theirs}.{a}", f"{ours}/attention/{b}", inputs)
    return entries
