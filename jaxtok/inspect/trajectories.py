"""How a diffusion sampler gets from noise to data: what it has at each step, and what it expects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure

from jaxtok.codes import Array, Latents
from jaxtok.inspect.decoding import grey_levels
from jaxtok.inspect.recording import record_calls
from jaxtok.inspect.style import to_rgb
from jaxtok.inspect.tiles import tile_figure
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.priors.binary_diffusion import x0_logits
from jaxtok.tokenizers.flow_decoder import FlowDecoder


@dataclass(frozen=True)
class Trajectory:
    """The course of one call of a sampler.

    Attributes:
      times: float32 [T], from 1 (noise) downwards.
      states: [T, B, ...] before each step.
      predictions: [T, B, ...], the data that each step expects: images, or probabilities that a bit is 1.
      final: [B, ...], what the sampler returned.
    """

    times: np.ndarray
    states: np.ndarray
    predictions: np.ndarray
    final: np.ndarray


def flow_trajectory(call: Callable[[], Array]) -> Trajectory:
    """The course of a flow decoder (FlexTok), guidance included.

        course = flow_trajectory(lambda: model.tokenizer().apply(variables, latents, method="decode"))

    A step from x at time t to x' at t' follows the velocity (x - x') / (t - t'), whatever guidance made it,
    and expects the data x - t (x - x') / (t - t').

    Args:
      call: draws once and returns what the flow ends with, [B, H, W, C].

    Raises:
      ValueError: the call ran no flow decoder, or returned something else.
    """

    def take(module, args, kwargs, out):
        return args[0], args[1]

    final, kept = record_calls(call, FlowDecoder, "velocity", take)
    final = np.asarray(final)
    states, times = _states(kept, final)
    after = np.concatenate([states[1:], final[None]])
    before, next_times = times, np.append(times[1:], 0).astype(np.float32)
    shape = (-1, *[1] * final.ndim)
    velocity = (states - after) / (before - next_times).reshape(shape)
    return Trajectory(times, states, states - before.reshape(shape) * velocity, final)


def bit_trajectory(call: Callable[[], Latents], target: Literal["flip", "x0"] = "flip") -> Trajectory:
    """The course of a bit-flip diffusion prior; the predictions are those of its conditional side.

        course = bit_trajectory(lambda: system.sample(captions, "diffusion")[1])

    Args:
      call: samples once and returns the latents.
      target: what the network predicts, see `BinaryDiffusion`.

    Raises:
      ValueError: the call ran no timed network on codes, or returned something else.
    """

    def take(module, args, kwargs, out):
        codes, _, time = args[:3]
        return codes, time, x0_logits(out, codes) if target == "flip" else out

    timed, kept = record_calls(call, LatentTransformer, "__call__", take)
    final = np.asarray(timed.codes)
    states, times = _states(kept, final)
    logits = np.stack([tree[2][: len(final)] for _, tree in kept])
    return Trajectory(times, states, np.asarray(jax.nn.sigmoid(logits)), final)


def _states(kept: list[tuple[str, Any]], final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States and times of the recorded calls; guided samplers have the conditional rows first."""
    if not kept:
        raise ValueError("the call ran no such sampler; see the example in the docstring")
    states = np.stack([tree[0][: len(final)] for _, tree in kept])
    if states.shape[1:] != final.shape:
        raise ValueError(
            f"the sampler works on {states.shape[1:]}, the call returned {final.shape}; return what the "
            "sampler draws, before anything decodes it"
        )
    return states, np.stack([tree[1][0] for _, tree in kept]).astype(np.float32)


def plot_trajectory(
    trajectory: Trajectory,
    decode: Callable[[np.ndarray], Array] | None = None,
    *,
    samples: int = 4,
    columns: int = 10,
    title: str = "",
) -> Figure:
    """A strip per sample: what the sampler has above what it expects, from noise to the result.

    Args:
      trajectory: of a flow or of bits.
      decode: states [M, ...] -> images [M, H, W, C], floats in [-1, 1] or uint8; None where they are images.
        Probabilities of bits are rounded before.
      samples: at most so many samples.
      columns: at most so many steps, spread evenly, and the result.
      title: one line above the strips.
    """
    steps = len(trajectory.times)
    chosen = np.unique(np.linspace(0, steps - 1, min(columns, steps)).round().astype(int))
    predictions = trajectory.predictions
    if np.issubdtype(trajectory.states.dtype, np.integer):
        predictions = (predictions > 0.5).astype(np.int32)
    rows, labels = [], []
    for sample in range(min(samples, len(trajectory.final))):
        final = trajectory.final[sample][None]
        for name, course in (("now", trajectory.states), ("expected", predictions)):
            rows.append(np.concatenate([course[chosen, sample], final]))
            labels.append(name)
    tiles = _pictures(np.stack(rows), decode)
    heads = [*(f"t {trajectory.times[step]:.2f}" for step in chosen), "result"]
    return tile_figure(tiles, row_labels=labels, column_labels=heads, title=title)


def _pictures(rows: Num[np.ndarray, "R K *shape"], decode: Callable | None) -> np.ndarray:
    flat = rows.reshape(-1, *rows.shape[2:])
    images = np.asarray(flat if decode is None else decode(flat))
    rgb = to_rgb(np.round(grey_levels(images)).astype(np.uint8))
    return rgb.reshape(*rows.shape[:2], *rgb.shape[1:])
