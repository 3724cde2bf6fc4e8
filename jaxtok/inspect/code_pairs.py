"""Which codes go together, and which positions know of each other."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.evaluate.codes import entropy_nats
from jaxtok.inspect.style import DIVERGING, INK, LABEL_SIZE, TICK_SIZE, clean, new_figure, whole_ticks

Value = np.ndarray | np.floating  # NumPy returns a scalar where no axis is left
_NEVER = "#c8c8c8"


def cooccurrence(
    codes: Int[Array, "B N"], size: int, positions: tuple[int, int] | int | None = None
) -> Int[np.ndarray, "K K"]:
    """How often code a goes with code b.

    Args:
      codes: one code per token (a slot, or all slots joined by `CodeSpace.join`).
      size: K.
      positions: (i, j) counts token i with token j; a number counts every token with the one so many places
        further on; None counts all pairs of tokens of an image, in both orders.

    Raises:
      ValueError: codes outside the alphabet, or positions outside the sequence.
    """
    codes = np.asarray(codes)
    tokens = codes.shape[1]
    if codes.size and (codes.min() < 0 or codes.max() >= size):
        raise ValueError(f"codes span [{codes.min()}, {codes.max()}], outside an alphabet of {size}")
    if positions is None:
        # Of an image with counts h all ordered pairs are h h^T, less each token with itself.
        histograms = np.zeros((len(codes), size), np.int64)
        np.add.at(histograms, (np.arange(len(codes))[:, None], codes), 1)
        return histograms.T @ histograms - np.diag(histograms.sum(axis=0))
    if isinstance(positions, int):
        inside = 0 < positions < tokens
        first, second = codes[:, : tokens - positions], codes[:, positions:]
    else:
        inside = all(0 <= position < tokens for position in positions)
        first, second = (codes[:, position % tokens] for position in positions)
    if not inside:
        raise ValueError(f"positions={positions} do not lie in a sequence of {tokens} tokens")
    pairs = first.astype(np.int64).ravel() * size + second.ravel()
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def mutual_information(
    counts: Int[np.ndarray, "*batch A E"], *, corrected: bool = True
) -> Float[Value, "*batch"]:
    """Mutual information of two codes in bits, from their joint counts.

    Args:
      counts: joint counts, each with at least one.
      corrected: take the first-order bias off (Miller 1955), which grows with the cells and shrinks with the
        samples; the result can then be a little below zero.
    """
    joint = entropy_nats(counts.reshape(*counts.shape[:-2], -1), miller_madow=corrected)
    sides = [entropy_nats(counts.sum(axis=axis), miller_madow=corrected) for axis in (-1, -2)]
    return (sides[0] + sides[1] - joint) / np.log(2)


def position_information(codes: Int[Array, "B N"], *, corrected: bool = True) -> Float[np.ndarray, "N N"]:
    """Mutual information in bits between the codes of every two tokens; on the diagonal their entropy.

    The estimate needs many more images than there are pairs of codes that occur.

    Args:
      codes: one code per token.
      corrected: see `mutual_information`.
    """
    # Only codes that occur are counted, so that a large alphabet costs no memory.
    columns = [np.unique(column, return_inverse=True)[1] for column in np.asarray(codes).T]
    matrix = np.zeros((len(columns), len(columns)))
    for i, first in enumerate(columns):
        matrix[i, i] = entropy_nats(np.bincount(first), miller_madow=corrected) / np.log(2)
        for j, second in enumerate(columns[:i]):
            size = int(max(first.max(), second.max())) + 1
            counts = cooccurrence(np.stack([first, second], axis=1), size, (0, 1))
            matrix[i, j] = matrix[j, i] = mutual_information(counts, corrected=corrected)
    return matrix


def plot_cooccurrence(counts: Int[np.ndarray, "K K"], *, most: int = 32, title: str = "") -> Figure:
    """Which codes occur together more (or less) often than by chance, among the most frequent ones.

    The colour is log2 of the joint frequency over the product of the two codes' own (pointwise mutual
    information); pairs that never occur are grey. Codes are sorted by frequency.

    Args:
      counts: from `cooccurrence`.
      most: how many codes are drawn.
      title: one line above the matrix.

    Raises:
      ValueError: no pair was counted.
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("nothing to draw: no pair of codes was counted")
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    chosen = np.argsort(-(rows + columns), kind="stable")[:most]
    chosen = chosen[(rows + columns)[chosen] > 0]
    joint = counts[np.ix_(chosen, chosen)]
    chance = np.outer(rows[chosen], columns[chosen]) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(joint > 0, np.log2(joint / chance), np.nan)
    figure = new_figure(6.4, 5.6)
    axes = figure.subplots()
    axes.set_facecolor(_NEVER)
    limit = max(float(np.nanmax(np.abs(excess), initial=0.0)), 1.0)
    drawn = axes.imshow(excess, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    share = joint.sum() / total
    clean(axes, title or f"{len(chosen)} codes, {share:.0%} of all pairs", "second code", "first code")
    if len(chosen) <= 40:
        size = TICK_SIZE if len(chosen) <= 20 else TICK_SIZE - 3
        axes.set_xticks(range(len(chosen)), map(str, chosen), rotation=90, fontsize=size)
        axes.set_yticks(range(len(chosen)), map(str, chosen), fontsize=size)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, shrink=0.85)
    bar.set_label("log2 of how much oftener than by chance", fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)
    return figure


def plot_position_information(
    matrix: Float[np.ndarray, "N N"], *, grid: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """Mutual information between tokens; of a grid also what each of them knows of the one in the middle.

    Args:
      matrix: from `position_information`.
      grid: (rows, columns) of the tokens, where they are a grid.
      title: one line above the figure.

    Raises:
      ValueError: the grid has another number of tokens.
    """
    tokens = len(matrix)
    if grid is not None and grid[0] * grid[1] != tokens:
        raise ValueError(f"grid={grid} has {grid[0] * grid[1]} cells for {tokens} tokens")
    apart = matrix.copy()
    np.fill_diagonal(apart, np.nan)
    largest = max(float(np.nanmax(apart, initial=0.0)), 1e-9)
    figure = new_figure(10.4 if grid else 6.0, 5.0)
    panels = np.atleast_1d(figure.subplots(1, 2 if grid else 1))
    style = {"cmap": "viridis", "vmin": 0, "vmax": largest, "interpolation": "nearest"}
    drawn = panels[0].imshow(apart, **style)
    mean = np.nanmean(apart) if tokens > 1 else 0.0
    clean(panels[0], title or f"mutual information of tokens, mean {mean:.2f} bits", "token", "token")
    panels[0].set_xticks(whole_ticks(tokens))
    panels[0].set_yticks(whole_ticks(tokens))
    if grid:
        middle = (grid[0] // 2) * grid[1] + grid[1] // 2
        panels[1].imshow(apart[middle].reshape(grid), **style)
        clean(panels[1], f"with token {middle} (in white)", "column", "row")
        panels[1].set_xticks(whole_ticks(grid[1]))
        panels[1].set_yticks(whole_ticks(grid[0]))
    bar = figure.colorbar(drawn, ax=list(panels), pad=0.02, shrink=0.85)
    bar.set_label("bits", fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)
    return figure
