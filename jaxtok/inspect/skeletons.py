"""Moving stick figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

_SIDE, _MARGIN = 160, 12  # pixels


def write_skeleton_gif(
    path: Path, frames: np.ndarray, bones: Sequence[tuple[int, int]], frame_rate: float
) -> None:
    """Writes joints in the plane as a GIF that moves.

    Args:
      path: of the file.
      frames: float [T, 2 J], x and y of every joint, y upwards.
      bones: pairs of joints that are joined by a line.
      frame_rate: frames per second.

    Raises:
      ValueError: no frames, an odd number of features, or a bone of a joint that is not there.
    """
    frames = np.asarray(frames, np.float32)
    if not len(frames) or frames.shape[-1] % 2:
        raise ValueError(f"frames of shape {frames.shape}; expected [T, 2 J] with at least one frame")
    joints = frames.reshape(len(frames), -1, 2)
    if (last := max(joint for bone in bones for joint in bone)) >= joints.shape[1]:
        raise ValueError(f"a bone names joint {last}; there are {joints.shape[1]}")
    low, high = joints.min(axis=(0, 1)), joints.max(axis=(0, 1))
    scale = (_SIDE - 2 * _MARGIN) / max(float((high - low).max()), 1e-6)
    places = (joints - low) * scale + _MARGIN
    places[..., 1] = _SIDE - places[..., 1]
    pictures = []
    for frame in places:
        picture = Image.new("L", (_SIDE, _SIDE), 255)
        draw = ImageDraw.Draw(picture)
        for start, end in bones:
            draw.line([tuple(frame[start]), tuple(frame[end])], fill=40, width=3)
        for x, y in frame:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=0)
        pictures.append(picture)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=round(1000 / frame_rate), loop=0
    )
