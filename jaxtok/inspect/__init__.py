"""Looking inside: figures of reconstructions, samples, codes and training.

Functions named `plot_*`, the grids and `training_curves` return a `matplotlib.figure.Figure`; nothing uses
pyplot or any other global state, so they work in worker threads and without a display. The other functions
return arrays to look at. A `decode` argument is a function from codes `int32[B, N, Q]`, or from continuous
latents where that is said, to images `[B, H, W, C]` (floats in [-1, 1] or uint8).

`attention_maps`, `flow_trajectory` and `bit_trajectory` look into a call of a model as it is (see
`record_calls`). `show` draws trees of arrays in notebooks with treescope. `write_report`, and `python -m
jaxtok.inspect REPORT.html --workdir runs/x`, write one HTML page about a run.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.inspect.attention import AttentionMap, attention_maps, query_attention
    from jaxtok.inspect.bits import plot_bit_correlation, plot_bit_usage, plot_code_usage
    from jaxtok.inspect.cells import plot_codes
    from jaxtok.inspect.code_pairs import (
        cooccurrence,
        mutual_information,
        plot_cooccurrence,
        plot_position_information,
        position_information,
    )
    from jaxtok.inspect.comparison import (
        QuantizerRow,
        plot_prefix_psnr,
        plot_usage_and_error,
        plot_usage_history,
    )
    from jaxtok.inspect.curves import read_metrics, training_curves
    from jaxtok.inspect.flips import FlipInfluence, flip_influence, plot_flip_influence
    from jaxtok.inspect.gradients import GradientInfluence, gradient_influence
    from jaxtok.inspect.grids import (
        prefix_ladder,
        prefix_lengths,
        reconstruction_grid,
        sample_grid,
        tokenizer_grid,
    )
    from jaxtok.inspect.hamming import hamming_matrix, plot_hamming
    from jaxtok.inspect.neighbours import nearest_codes, plot_neighbours
    from jaxtok.inspect.paths import bit_path, interpolate_bits, plot_interpolation
    from jaxtok.inspect.plane import plot_plane
    from jaxtok.inspect.plans import plot_chip_memory, plot_least_times
    from jaxtok.inspect.recording import record_calls
    from jaxtok.inspect.report import write_report
    from jaxtok.inspect.settings import plot_setting
    from jaxtok.inspect.sweeps import importance_figure, parallel_coordinates
    from jaxtok.inspect.token_maps import plot_token_maps
    from jaxtok.inspect.trajectories import Trajectory, bit_trajectory, flow_trajectory, plot_trajectory
    from jaxtok.inspect.traversals import (
        interpolate_values,
        plot_traversal,
        principal_directions,
        traverse_code,
        traverse_values,
    )
    from jaxtok.inspect.trees import show
    from jaxtok.inspect.zipf import RankLine, fit_ranks, plot_zipf

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
    "AttentionMap": "attention",
    "attention_maps": "attention",
    "query_attention": "attention",
    "plot_token_maps": "token_maps",
    "GradientInfluence": "gradients",
    "gradient_influence": "gradients",
    "cooccurrence": "code_pairs",
    "mutual_information": "code_pairs",
    "plot_cooccurrence": "code_pairs",
    "plot_position_information": "code_pairs",
    "position_information": "code_pairs",
    "RankLine": "zipf",
    "fit_ranks": "zipf",
    "plot_zipf": "zipf",
    "interpolate_values": "traversals",
    "plot_traversal": "traversals",
    "principal_directions": "traversals",
    "traverse_code": "traversals",
    "traverse_values": "traversals",
    "nearest_codes": "neighbours",
    "plot_neighbours": "neighbours",
    "tokenizer_grid": "grids",
    "Trajectory": "trajectories",
    "bit_trajectory": "trajectories",
    "flow_trajectory": "trajectories",
    "plot_trajectory": "trajectories",
    "show": "trees",
    "record_calls": "recording",
    "write_report": "report",
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
    "AttentionMap",
    "FlipInfluence",
    "GradientInfluence",
    "QuantizerRow",
    "RankLine",
    "Trajectory",
    "attention_maps",
    "bit_path",
    "bit_trajectory",
    "cooccurrence",
    "fit_ranks",
    "flip_influence",
    "flow_trajectory",
    "gradient_influence",
    "hamming_matrix",
    "importance_figure",
    "interpolate_bits",
    "interpolate_values",
    "mutual_information",
    "nearest_codes",
    "parallel_coordinates",
    "plot_bit_correlation",
    "plot_bit_usage",
    "plot_chip_memory",
    "plot_code_usage",
    "plot_codes",
    "plot_cooccurrence",
    "plot_flip_influence",
    "plot_hamming",
    "plot_interpolation",
    "plot_least_times",
    "plot_neighbours",
    "plot_plane",
    "plot_position_information",
    "plot_prefix_psnr",
    "plot_setting",
    "plot_token_maps",
    "plot_trajectory",
    "plot_traversal",
    "plot_usage_and_error",
    "plot_usage_history",
    "plot_zipf",
    "position_information",
    "prefix_ladder",
    "prefix_lengths",
    "principal_directions",
    "query_attention",
    "read_metrics",
    "reconstruction_grid",
    "record_calls",
    "sample_grid",
    "show",
    "tokenizer_grid",
    "training_curves",
    "traverse_code",
    "traverse_values",
    "write_report",
]

__getattr__, __dir__ = attach(__name__, _NAMES)
