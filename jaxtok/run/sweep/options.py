"""Flags of the verb `sweep`."""

import dataclasses

from jaxtok.run.sweep.study import Direction, PrunerName, SamplerName


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Searches hyper-parameters. Start the same command as often as there are machines: all work on one
    study. A process that is killed loses nothing; another one, or the same command again, continues its
    trial from the last checkpoint.

    Writes `trials.csv`, figures, all of it as one page `sweep.html`, and `best.json`, which `train --config`
    takes.

    Attributes:
      workdir: where the study, its trials and the tables go.
      metric: what counts, "stage/result" as in `results.json`; only its stage is trained, with those that it
        reads.
      direction: whether more is better.
      space: what to vary: "path=low:high", "path=low:high:log" or "path=a,b,c"; default what the experiment
        names.
      trials: how many, by all processes together; a grid has its own number.
      sampler: what draws the values.
      pruner: what ends trials that look bad at an evaluation (--evaluate-every).
      evaluate_every: steps between evaluations; 0 for the end only.
      steps: replaces the steps of every stage; 0 leaves them.
      seed: of the drawing and of every training.
      storage: database address such as postgresql://... for many machines without a shared file system;
        default a journal in the work directory.
      study: name in the storage.
      patience: seconds without a sign of life after which another machine's trial counts as dead.
      keep_checkpoints: keep those of finished trials, and not of the best one alone.
    """

    workdir: str = ""
    metric: str = ""
    direction: Direction = "maximize"
    space: tuple[str, ...] = ()
    trials: int = 20
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    evaluate_every: int = 0
    steps: int = 0
    seed: int = 0
    storage: str = ""
    study: str = "sweep"
    patience: float = 600.0
    keep_checkpoints: bool = False

    def __post_init__(self):
        for name, least in (("trials", 1), ("evaluate_every", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least {least}.")
        if self.patience <= 0:
            raise ValueError(f"patience is {self.patience}; it has to be positive.")
