"""Compositional accuracy by GenEval's rules (arXiv 2310.11513), on objects that any detector has found.

A prompt is a list of clauses: what has to be there (so many of a class, of a colour, at a place relative to
  an
earlier clause) and what must not. The detector is not a part of this: for the `shapes` data
`jaxtok.evaluate.scenes` finds objects exactly; boxes of a network can be given as well.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxtok.evaluate.protocol import Result

Place = Literal["left of", "right of", "above", "below"]
_NEAR = 0.1  # of both boxes' sizes: a smaller offset counts as none
_ALONG = 0.5  # of the offset's length: how far along an axis it has to point


@dataclasses.dataclass(frozen=True)
class Detection:
    """An object in an image.

    Attributes:
      label: class.
      box: x0, y0, x1, y1; y grows downwards.
      score: confidence.
      color: its colour, or "" where nobody looked.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float = 1.0
    color: str = ""

    @property
    def centre(self) -> np.ndarray:
        """(x, y)."""
        return np.array([self.box[0] + self.box[2], self.box[1] + self.box[3]]) / 2

    @property
    def size(self) -> np.ndarray:
        """(width, height)."""
        return np.array([abs(self.box[2] - self.box[0]), abs(self.box[3] - self.box[1])])


@dataclasses.dataclass(frozen=True)
class Clause:
    """At least `count` objects of a class; in an `exclude` list: not so many.

    Attributes:
      label: class.
      count: how many.
      color: of them, or "" for any.
      place: where each has to be, and the number of the clause relative to whose objects; None for anywhere.
    """

    label: str
    count: int = 1
    color: str = ""
    place: tuple[Place, int] | None = None


def places(first: Detection, second: Detection) -> set[str]:
    """Where the first object is relative to the second: none, one or two of left of, right of, above, below.

    The offset of the centres, shortened along each axis by a tenth of both sizes, is compared with its whole
    length: more than half of it along an axis counts.
    """
    offset = first.centre - second.centre
    length = float(np.linalg.norm(offset))
    if length == 0:
        return set()
    beyond = np.maximum(np.abs(offset) - _NEAR * (first.size + second.size), 0) * np.sign(offset) / length
    names = {"left of": -beyond[0], "right of": beyond[0], "above": -beyond[1], "below": beyond[1]}
    return {name for name, value in names.items() if value > _ALONG}


def satisfies(
    found: Sequence[Detection],
    include: Sequence[Clause],
    exclude: Sequence[Clause] = (),
    *,
    threshold: float = 0.3,
) -> bool:
    """Whether an image shows what a prompt says.

    Of every class, the `count` objects with the highest scores are looked at, so a fourth apple does not hurt
    "three apples" unless `exclude` says so.

    Args:
      found: objects.
      include: clauses that must hold; places refer to earlier ones.
      exclude: clauses that must not hold.
      threshold: objects with a lower or equal score do not count (GenEval: 0.3, and 0.9 where it counts).

    Raises:
      ValueError: a place relative to a clause that does not come earlier.
    """
    seen = [thing for thing in found if thing.score > threshold]
    chosen: list[list[Detection]] = []
    holds = True
    for number, clause in enumerate(include):
        own = _best(seen, clause)
        chosen.append(own)
        if clause.place is not None and not 0 <= clause.place[1] < number:
            raise ValueError(
                f"clause {number} is placed relative to clause {clause.place[1]}; name one of the "
                f"{number} before"
            )
        if len(own) < clause.count or (clause.color and any(thing.color != clause.color for thing in own)):
            holds = False
        elif clause.place is not None:
            where, others = clause.place[0], chosen[clause.place[1]]
            holds &= bool(others) and all(where in places(a, b) for a in own for b in others)
    return holds and not any(len(_best(seen, clause)) >= clause.count for clause in exclude)


def _best(seen: Sequence[Detection], clause: Clause) -> list[Detection]:
    own = [thing for thing in seen if thing.label == clause.label]
    return sorted(own, key=lambda thing: -thing.score)[: clause.count]


def composition_results(correct: Mapping[str, Sequence[bool]], **protocol: Any) -> list[Result]:
    """`composition_<tag>`, the share of right images of a kind of prompt, and `composition_overall`, the mean
    over kinds whatever their numbers of images.

    Args:
      correct: kind of prompt -> whether each of its images was right.
      **protocol: what this cannot know: detector, thresholds, sampler, prompts.

    Raises:
      ValueError: a kind without images, or none at all.
    """
    if not correct or not all(len(values) for values in correct.values()):
        raise ValueError(f"kinds {sorted(correct)}: every one needs at least one image")
    shares = {tag: float(np.mean(np.asarray(values, bool))) for tag, values in correct.items()}
    shared = {"images": sum(map(len, correct.values())), **protocol}
    results = [
        Result(f"composition_{tag}", share, {**shared, "images": len(correct[tag])})
        for tag, share in shares.items()
    ]
    overall = {**shared, "kinds": sorted(shares)}
    return [*results, Result("composition_overall", float(np.mean(list(shares.values()))), overall)]


def scene_clauses(caption: str) -> list[Clause]:
    """A caption of the `shapes` data as clauses. Colour and size are part of an object's class there ("small
    red star"), so that objects of one shape are told apart.

    Raises:
      ValueError: the caption is not one of the `shapes` data.
    """
    from jaxtok.evaluate.scenes import parse_caption

    scene = parse_caption(caption)
    clauses = [Clause(" ".join(thing)) for thing in scene.objects]
    if scene.relation is not None:
        place: Any = scene.relation
        # "A left of B" places A relative to B, so B comes first.
        return [clauses[1], dataclasses.replace(clauses[0], place=(place, 0))]
    return clauses
