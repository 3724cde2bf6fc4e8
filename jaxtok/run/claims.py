"""Falsifiable, paired comparisons, and what came out."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jaxtok.config_files import replace_at, to_json
from jaxtok.train.schedules import TrainConfig


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
      label: how tables call it.
      metric: "stage/result", a result of the stage's evaluation.
      changes: (dotted path in the configuration, value) of what this arm changes.
      constant: a number that the hypothesis names, in place of a measurement; nothing is trained for it.
      factor: what the hypothesis multiplies the metric by ("twice as fast").
      offset: what it then adds ("within three points").
    """

    label: str
    metric: str = ""
    changes: tuple[tuple[str, Any], ...] = ()
    constant: float | None = None
    factor: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        if (self.constant is None) == (not self.metric) or (self.changes and not self.metric):
            raise ValueError(f"arm {self.label!r} needs a metric, or a constant and nothing else")

    @property
    def stage(self) -> str:
        """The stage whose evaluation gives the metric."""
        return self.metric.partition("/")[0]

    def configure(self, config: Any) -> Any:
        """The configuration of this arm."""
        for path, value in self.changes:
            config = replace_at(config, path, value)
        return config


@dataclasses.dataclass(frozen=True)
class Claim:
    """A relation that a paper predicts between arms.

    Attributes:
      name: the claim in one line.
      arms: in the order in which the metric is predicted to change, at least two.
      relation: from each arm to the next, in every seed.
      margin: by how much at least, as a hypothesis; reported, and not part of "holds".
    """

    name: str
    arms: tuple[Arm, ...]
    relation: Literal["increasing", "decreasing"] = "increasing"
    margin: float | None = None

    def __post_init__(self):
        if len(self.arms) < 2:
            raise ValueError(
                f"claim {self.name!r} has {len(self.arms)} arms; a comparison needs at least two"
            )
        if all(arm.constant is not None for arm in self.arms):
            raise ValueError(f"claim {self.name!r} compares constants; at least one arm has to be measured")


def measured_arms(claim: Claim) -> tuple[Arm, ...]:
    """The arms that are trained, without constants."""
    return tuple(arm for arm in claim.arms if arm.constant is None)


def vary(path: str, *values: Any, metric: str) -> tuple[Arm, ...]:
    """Arms that differ in one field of the configuration."""
    return tuple(Arm(f"{path}={value}", metric, ((path, value),)) for value in values)


def evaluate_claim(claim: Claim, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Whether a claim holds.

    Args:
      claim: the claim.
      values: label of each arm -> metric per seed, seeds in the same order.

    Returns:
      JSON: arms with their values, differences per step and seed, "holds" (every difference has the predicted
        sign in every seed),
      and the smallest mean difference against the hypothesised margin.
    """
    sign = 1 if claim.relation == "increasing" else -1
    rows = [list(values[arm.label]) for arm in claim.arms]
    steps = [
        [sign * (b - a) for a, b in zip(first, second, strict=True)]
        for first, second in itertools.pairwise(rows)
    ]
    smallest = min(sum(step) / len(step) for step in steps)
    return {
        "name": claim.name,
        "relation": claim.relation,
        "holds": all(difference > 0 for step in steps for difference in step),
        "smallest_mean_difference": smallest,
        "margin": claim.margin,
        "margin_reached": None if claim.margin is None else smallest >= claim.margin,
        "arms": [
            {
                "label": arm.label,
                "metric": arm.metric,
                "changes": {path: to_json(value) for path, value in arm.changes},
                "values": row,
            }
            for arm, row in zip(claim.arms, rows, strict=True)
        ],
        "differences": steps,
    }


def evaluate_claims(
    claims: Sequence[Claim],
    config: Any,
    seeds: Sequence[int],
    run_arm: Callable[[Any, int, tuple[str, ...], str], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Trains all arms with all seeds and evaluates the claims; equal arms are trained once.

    Args:
      claims: the claims.
      config: that arms change.
      seeds: paired seeds, at least three for a claim to mean something.
      run_arm: `(config, seed, stages, identity) -> {metric: value}`.
    """
    stages: dict[str, set[str]] = {}
    for claim in claims:
        for arm in measured_arms(claim):
            stages.setdefault(identity_of(arm.configure(config)), set()).add(arm.stage)
    outcomes: dict[tuple[str, int], Mapping[str, float]] = {}
    evaluated = []
    for claim in claims:
        values: dict[str, list[float]] = {}
        for arm in claim.arms:
            if arm.constant is not None:
                values[arm.label] = [arm.constant] * len(seeds)
                continue
            own = arm.configure(config)
            identity = identity_of(own)
            for seed in seeds:
                if (identity, seed) not in outcomes:
                    outcomes[identity, seed] = run_arm(own, seed, tuple(sorted(stages[identity])), identity)
                found = outcomes[identity, seed]
                if arm.metric not in found:
                    raise ValueError(
                        f"claim {claim.name!r}: no metric {arm.metric!r}; there are {sorted(found)}"
                    )
                values.setdefault(arm.label, []).append(arm.factor * found[arm.metric] + arm.offset)
        evaluated.append(evaluate_claim(claim, values))
    return evaluated


def identity_of(config: Any) -> str:
    """A short hash of a configuration."""
    return hashlib.blake2b(json.dumps(to_json(config), sort_keys=True).encode(), digest_size=5).hexdigest()


def with_steps(config: Any, steps: int) -> Any:
    """A configuration whose every `TrainConfig` has so many steps; for trying whether everything runs."""
    changed = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, TrainConfig):
            changed[field.name] = dataclasses.replace(value, steps=steps)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = with_steps(value, steps)
    return dataclasses.replace(config, **changed)
