"""Looking inside: figures of reconstructions, samples, codes and training.

Functions named `plot_*`, the grids and `training_curves` return a `matplotlib.figure.Figure`; nothing uses
pyplot or any other global state, so they work in worker threads and without a display. The other functions
return arrays to look at. A `decode` argument is always a function from codes `int32[B, N, Q]` to images `[B,
H, W, C]` (floats in [-1, 1] or uint8).
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.inspect.bits import plot_bit_correlation, plot_bit_usage, plot_code_usage
    from jaxtok.inspect.cells import plot_codes
    from jaxtok.inspect.comparison import (
        QuantizerRow,
        plot_prefix_psnr,
        plot_usage_and_error,
        plot_usage_history,
    )
    from jaxtok.inspect.curves import read_metrics, training_curves
    from jaxtok.inspect.flips import FlipInfluence, flip_influence, plot_flip_influence
    from jaxtok.inspect.grids import prefix_ladder, prefix_lengths, reconstruction_grid, sample_grid
    from jaxtok.inspect.hamming import hamming_matrix, plot_hamming
    from jaxtok.inspect.paths import bit_path, interpolate_bits, plot_interpolation
    from jaxtok.inspect.plane import plot_plane
    from jaxtok.inspect.plans import plot_chip_memory, plot_least_times
    from jaxtok.inspect.settings import plot_setting
    from jaxtok.inspect.sweeps import importance_figure, parallel_coordinates

_NAMES = {
    "reconstruction_grid": "grids",
    "sample_grid": "grids",
    "prefix_ladder": "grids",
    "prefix_lengths": "grids",
    "plot_bit_usage": "bits",
    "plot_bit_correlation": "bits",
    "plot_code_usage": "bits",
    "plot_codes": "cells",
    "FlipInfluence": "flips",
    "flip_influence": "flips",
    "plot_flip_influence": "flips",
    "bit_path": "paths",
    "interpolate_bits": "paths",
    "plot_interpolation": "paths",
    "hamming_matrix": "hamming",
    "plot_hamming": "hamming",
    "read_metrics": "curves",
    "training_curves": "curves",
    "QuantizerRow": "comparison",
    "plot_prefix_psnr": "comparison",
    "plot_usage_and_error": "comparison",
    "plot_usage_history": "comparison",
    "plot_plane": "plane",
    "plot_chip_memory": "plans",
    "plot_least_times": "plans",
    "plot_setting": "settings",
    "importance_figure": "sweeps",
    "parallel_coordinates": "sweeps",
}

__all__ = [
    "FlipInfluence",
    "QuantizerRow",
    "bit_path",
    "flip_influence",
    "hamming_matrix",
    "importance_figure",
    "interpolate_bits",
    "parallel_coordinates",
    "plot_bit_correlation",
    "plot_bit_usage",
    "plot_chip_memory",
    "plot_code_usage",
    "plot_codes",
    "plot_flip_influence",
    "plot_hamming",
    "plot_interpolation",
    "plot_least_times",
    "plot_plane",
    "plot_prefix_psnr",
    "plot_setting",
    "plot_usage_and_error",
    "plot_usage_history",
    "prefix_ladder",
    "prefix_lengths",
    "read_metrics",
    "reconstruction_grid",
    "sample_grid",
    "training_curves",
]

__getattr__, __dir__ = attach(__name__, _NAMES)
