"""Everything about a run that is not about the model: where, on what, how often."""

from dataclasses import dataclass, field
from typing import Literal

from jaxtok.train.distributed import Distributed
from jaxtok.train.sharding import MeshShape


@dataclass(frozen=True)
class Run:
    """Where and how a run happens; none of it changes what is computed, except the seed.

    Attributes:
      workdir: where everything goes: checkpoints, metrics, figures, tables. Running the same command again
        continues there.
      only: stages to run, with the stages that they read; all by default.
      seed: of parameters, noise and sampling.
      mesh: how devices are arranged.
      log_every: steps between lines of metrics.
      save_every: steps between checkpoints; there is always one at the end.
      evaluate_every: steps between evaluations; 0 for the end only.
      keep: newest checkpoints that stay.
      on_nonfinite: what to do when a metric is nan or infinite: stop with a message and a dump of the step,
        or skip that step (its update is undone and counted; many in a row stop the run all the same).
      profile: steps of each stage to trace, from the tenth on, in `profile/` for TensorBoard or Perfetto;
        0 for none.
      tokens: folder of token files (verb `encode`) of the training images; stages that learn codes read them
        from there, and the tokenizer does not run in their steps. They have to be those of this run's
        tokenizer and data.
      init_from: a run, a folder of `save_pretrained`, or official weights to start from; parameters of equal
        name and shape are taken, and what was and was not is printed.
      wandb_project: Weights & Biases project; empty for none.
      distributed: how processes find each other.
      log_level: how much the library tells beside the progress.
    """

    workdir: str = ""
    only: tuple[str, ...] = ()
    seed: int = 0
    mesh: MeshShape = field(default_factory=MeshShape)
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0
    keep: int = 2
    on_nonfinite: Literal["stop", "skip"] = "stop"
    profile: int = 0
    tokens: str = ""
    init_from: str = ""
    wandb_project: str = ""
    distributed: Distributed = field(default_factory=Distributed)
    log_level: Literal["debug", "info", "warning"] = "warning"

    def __post_init__(self) -> None:
        limits = {"log_every": 1, "save_every": 1, "evaluate_every": 0, "keep": 1, "profile": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least {least}.")
