"""The settings of how a stage trains, and the learning rate over its steps."""

from dataclasses import dataclass
from typing import Literal

import optax


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how a stage trains.

    Attributes:
      steps: Optimizer steps.
      learning_rate: Its highest value.
      schedule: What follows the warm-up: a constant rate, or down to zero at the last step.
      warmup_steps: Steps in which the learning rate rises linearly from zero.
      weight_decay: Decoupled decay, times the learning rate; vectors, biases and norm scales do not decay.
      betas: Decay rates of Adam's moments.
      eps: Adam's epsilon.
      clip_norm: Gradients with a larger global norm are scaled down to it; 0 is off.
      ema_decay: Decay of the running average of the parameters; 0 is off.
      micro_batches: Parts into which a batch is split one after the other, to save memory.
      groups: Pairs of a regular expression, searched in parameter paths such as `encoder/blocks/up/kernel`,
        and a factor on their learning rate. The first one found decides; 0 freezes, without optimizer state.
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    micro_batches: int = 1
    groups: tuple[tuple[str, float], ...] = ()

    @classmethod
    def brief(cls, steps: int, learning_rate: float = 2e-3) -> "TrainConfig":
        """A small stage: a warm-up of 50 steps, and a running average of about a hundred."""
        return cls(steps=steps, learning_rate=learning_rate, warmup_steps=50, ema_decay=0.99)

    @classmethod
    def constant(cls, steps: int, learning_rate: float = 1e-4) -> "TrainConfig":
        """What published grid tokenizers and LlamaGen share: a constant rate, betas of 0.9 and 0.95, decay
        0.05, and a running average of 0.9999.
        """
        shared = {"weight_decay": 0.05, "betas": (0.9, 0.95), "ema_decay": 0.9999}
        return cls(steps=steps, learning_rate=learning_rate, schedule="constant", warmup_steps=0, **shared)

    def __post_init__(self) -> None:
        limits = {
            "steps": (self.steps, self.steps >= 0, "0 or more"),
            "learning_rate": (self.learning_rate, self.learning_rate > 0, "positive"),
            "warmup_steps": (self.warmup_steps, self.warmup_steps >= 0, "0 or more"),
            "weight_decay": (self.weight_decay, self.weight_decay >= 0, "0 or more"),
            "betas": (self.betas, all(0 <= beta < 1 for beta in self.betas), "in [0, 1)"),
            "eps": (self.eps, self.eps > 0, "positive"),
            "clip_norm": (self.clip_norm, self.clip_norm >= 0, "0 (off) or more"),
            "ema_decay": (self.ema_decay, 0 <= self.ema_decay < 1, "in [0, 1)"),
            "micro_batches": (self.micro_batches, self.micro_batches >= 1, "1 or more"),
            "groups": (self.groups, all(factor >= 0 for _, factor in self.groups), "pairs with factors >= 0"),
        }
        problems = [
            f"{name} is {value}, it has to be {limit}"
            for name, (value, fine, limit) in limits.items()
            if not fine
        ]
        if problems:
            raise ValueError("; ".join(problems) + ".")


def schedule(fit: TrainConfig) -> optax.Schedule:
    """The learning rate as a function of n, the number of optimizer steps that are finished.

    During a warm-up of w steps it is `learning_rate * (n + 1) / w`: the first step already moves. Then, for
    n >= w, it is constant or goes down from the full rate to zero at `n = steps`.
    """
    decay_steps = max(fit.steps - fit.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(fit.learning_rate),
        "linear": optax.linear_schedule(fit.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(fit.learning_rate, decay_steps),
    }[fit.schedule]
    if not fit.warmup_steps:
        return after
    first = fit.learning_rate / fit.warmup_steps
    warmup = optax.linear_schedule(first, fit.learning_rate, max(fit.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [fit.warmup_steps])
