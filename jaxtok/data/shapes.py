"""Procedural pictures of coloured shapes with exact captions and scene descriptions, at any resolution.

A scene is one shape, or two in a spatial relation, on a plain background. The caption says everything that
is said in words ("a small red star above a large blue ring on grey"), the scene has the numbers, so text
alignment can be scored.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxtok.data.dataset import Split, check_split
from jaxtok.data.image_data import ImageData
from jaxtok.data.image_sources import ImageSource
from jaxtok.data.records import SPLIT_SEED, Source

COLORS = {
    "red": (214, 48, 49),
    "orange": (242, 142, 38),
    "yellow": (248, 214, 60),
    "green": (64, 168, 84),
    "blue": (52, 104, 214),
    "purple": (142, 74, 186),
    "pink": (240, 140, 186),
}
BACKGROUNDS = {"black": (24, 24, 28), "grey": (128, 130, 134), "white": (244, 243, 238)}
SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
SIZES = {"small": (0.10, 0.13), "large": (0.18, 0.205)}  # radius as a fraction of the image's side
RELATIONS = ("left of", "right of", "above", "below")

_TRAIN, _EVAL = 100_000, 2_000
_EXTENT = 1.1  # no shape reaches further than this many radii from its centre
_MARGIN, _GAP = 0.02, 0.03  # between a shape and the border, and between two shapes
_JITTER = 10  # a colour varies by this much per channel, of 255


class ShapeScenes(ImageSource):
    """One fixed data set of 100,000 training and 2,000 evaluation scenes; labels are the (first) shape.

    `source[i]["scene"]` is the scene as JSON.
    """

    channels = 3
    classes = SHAPES

    def __init__(self, split: Split, size: int):
        """Takes the side of the images in pixels."""
        self.split, self.size = split, size

    def __len__(self) -> int:
        return _TRAIN if self.split == "train" else _EVAL

    def raw(self, index: int) -> dict[str, Any]:
        scene = random_scene(np.random.default_rng((SPLIT_SEED, self.split == "eval", index)))
        return {
            "image": draw(scene, self.size),
            "label": SHAPES.index(scene["objects"][0]["shape"]),
            "caption": caption(scene),
            "key": f"shapes-{self.split}/{index}",
            "scene": json.dumps(scene),
        }

    def identity(self) -> Any:
        return ["shapes", len(self), self.size]


@dataclass(frozen=True, kw_only=True)
class Shapes(ImageData):
    """Procedural pictures of coloured shapes with exact captions; see `ShapeScenes`."""

    kind = "shapes"
    channels: Literal[1, 3] = 3
    """3 for RGB: the captions name colours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.channels == 3, "channels", "the captions of 'shapes' name colours", "Use 3.")

    def open(self, split: Split) -> Source:
        """See `Dataset.open`."""
        check_split(split)
        return ShapeScenes(split, max(self.image_sizes))


def random_scene(generator: np.random.Generator) -> dict[str, Any]:
    """Draws a scene.

    Returns:
      {"background": name, "objects": one or two of {"shape", "color", "size": names, "rgb": 0..255, "x",
      "y", "radius": fractions of the side, y downwards}, "relation": of the first object to the second, or
      None}.
    """
    background = _pick(generator, BACKGROUNDS)
    count = 1 if generator.random() < 0.25 else 2
    colors = generator.permutation(list(COLORS))[:count]
    objects = [_random_object(generator, str(color)) for color in colors]
    if count == 1:
        relation = None
        reach = _EXTENT * objects[0]["radius"] + _MARGIN
        objects[0]["x"], objects[0]["y"] = (
            round(float(v), 4) for v in generator.uniform(reach, 1 - reach, 2)
        )
    else:
        relation = _pick(generator, RELATIONS)
        _place(objects, relation, generator)
    return {"background": background, "objects": objects, "relation": relation}


def _pick(generator: np.random.Generator, names: Collection[str]) -> str:
    return list(names)[generator.integers(len(names))]


def _random_object(generator: np.random.Generator, color: str) -> dict[str, Any]:
    size = _pick(generator, SIZES)
    rgb = COLORS[color] + generator.integers(-_JITTER, _JITTER + 1, 3)
    return {
        "shape": _pick(generator, SHAPES),
        "color": color,
        "size": size,
        "rgb": rgb.clip(0, 255).tolist(),
        "radius": round(float(generator.uniform(*SIZES[size])), 4),
    }


def _place(objects: list[dict[str, Any]], relation: str, generator: np.random.Generator) -> None:
    """Puts two objects so that the relation is plain: apart along its axis, at most half as far across."""
    along, across = ("x", "y") if relation in ("left of", "right of") else ("y", "x")
    before, after = objects if relation in ("left of", "above") else objects[::-1]
    reach_before, reach_after = (_EXTENT * thing["radius"] for thing in (before, after))
    slack = 1 - 2 * (_MARGIN + reach_before + reach_after) - _GAP
    low, high = np.sort(generator.uniform(0, slack, 2))
    before[along] = _MARGIN + reach_before + low
    after[along] = before[along] + reach_before + _GAP + reach_after + (high - low)
    distance = after[along] - before[along]
    first, second = _MARGIN + reach_before, _MARGIN + reach_after
    before[across] = generator.uniform(first, 1 - first)
    after[across] = generator.uniform(
        max(second, before[across] - distance / 2), min(1 - second, before[across] + distance / 2)
    )
    for thing in objects:
        thing["x"], thing["y"] = round(float(thing["x"]), 4), round(float(thing["y"]), 4)


def caption(scene: dict[str, Any]) -> str:
    """The scene in words: "a small red star above a large blue ring on grey"."""
    names = [f"a {thing['size']} {thing['color']} {thing['shape']}" for thing in scene["objects"]]
    return f" {scene['relation']} ".join(names) + f" on {scene['background']}"


def draw(scene: dict[str, Any], size: int) -> np.ndarray:
    """Draws a scene with antialiased edges: uint8 [size, size, 3].

    The coverage of a pixel is taken from its signed distance to the outline, which is exact for straight
    edges.
    """
    canvas = np.empty((size, size, 3))
    canvas[:] = BACKGROUNDS[scene["background"]]
    centers = (np.arange(size) + 0.5) / size
    for thing in scene["objects"]:
        reach = _EXTENT * thing["radius"] + 1 / size
        columns, rows = (
            slice(*np.searchsorted(centers, (thing[axis] - reach, thing[axis] + reach)))
            for axis in ("x", "y")
        )
        x = (centers[None, columns] - thing["x"]) / thing["radius"]
        y = (centers[rows, None] - thing["y"]) / thing["radius"]
        distance = _distance(thing["shape"], x, y) * thing["radius"] * size
        coverage = np.clip(0.5 - distance, 0, 1)[..., None]
        canvas[rows, columns] += coverage * (np.array(thing["rgb"]) - canvas[rows, columns])
    return np.round(canvas).astype(np.uint8)


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the outline of a shape of radius 1, negative inside; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - 0.9
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.24
    return _polygon_distance(_POLYGONS[shape], x, y)


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance [h, w] to a closed polygon [corners, 2] from points x [1, w], y [h, 1]."""
    (ax, ay), (bx, by) = (ends.T[:, :, None, None] for ends in (corners, np.roll(corners, -1, axis=0)))
    ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
    nearest = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    squared = (px - nearest * ex) ** 2 + (py - nearest * ey) ** 2
    # A point is inside when a ray to its right crosses an odd number of edges; level edges are never crossed.
    crossed = ((ay > y) != (by > y)) & (px < ex * py / np.where(ey, ey, 1))
    return np.where(crossed.sum(axis=0) % 2, -1, 1) * np.sqrt(squared.min(axis=0))


def _star(points: int, inner: float, outer: float) -> np.ndarray:
    angles = -np.pi / 2 + np.pi / points * np.arange(2 * points)
    radii = np.where(np.arange(2 * points) % 2, inner, outer)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


_ARM = 0.32  # half the width of the cross's arms
_POLYGONS = {
    "square": np.array([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]),
    "triangle": np.array([(0.0, -0.95), (1.0, 0.75), (-1.0, 0.75)]) * 0.95,
    "star": _star(5, 0.45, 1.08),
    "cross": np.array(
        [
            *[(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)],
            *[(_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)],
        ]
    )
    * 0.95,
}
