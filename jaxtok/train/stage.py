"""A stage is data: what is trained, on what, for how long, and how it is evaluated."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import CodeSpace
from jaxtok.data.dataset import Dataset, Field
from jaxtok.data.tokens import TokenFiles
from jaxtok.evaluate.protocol import Result
from jaxtok.losses.terms import Terms
from jaxtok.train.sharding import Rule

Batch = Mapping[str, Any]
State = dict[str, Any]
Variables = dict[str, Any]


@runtime_checkable
class Objective(Protocol):
    """What `gradient` and `adversarial` minimise; see `jaxtok.systems.objectives`."""

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> Variables:
        """Fresh variables: "params" and, if the model has state, other collections."""
        ...

    def loss(self, variables: Variables, batch: Any, frozen: Any, keys: jax.Array, step: jax.Array) -> Terms:
        """The loss of a (micro-)batch with one key per example."""
        ...

    def update_collections(self, collections: Variables, statistics: Any, key: jax.Array) -> Variables:
        """The other collections after an optimizer step, from sums over the whole batch."""
        ...

    def summarise(self, statistics: Any) -> dict[str, jax.Array]:
        """Metrics from the sums."""
        ...


@runtime_checkable
class Update(Protocol):
    """One step of training, pure."""

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> State:
        """A fresh state: "step" int32 [], "params", and what else the update keeps."""
        ...

    def __call__(
        self, state: State, batch: Any, frozen: Any, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """The next state and scalar metrics; `key` is the stage's key, folded with the step inside."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """What evaluators read.

    Attributes:
      variables: of this stage, averaged parameters if there are any.
      frozen: variables of earlier stages and frozen networks, by name.
      batches: makes one pass over the evaluation split, see `Pipeline.evaluation_batches`.
      key: for sampling.
      averaged: whether `variables` are the running average.
    """

    variables: Variables
    frozen: Mapping[str, Variables]
    batches: Callable[[], Iterator[Mapping[str, np.ndarray]]]
    key: jax.Array
    averaged: bool


@runtime_checkable
class Evaluator(Protocol):
    """How a stage is measured and drawn; see `jaxtok.run.evaluators`."""

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """Results on held-out data."""
        ...

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """Matplotlib figures by name."""
        ...


@dataclasses.dataclass(frozen=True)
class StageCodes:
    """The codes that a stage learns.

    Attributes:
      space: alphabet of a token.
      tokens: N.
      tokenizer: name of the stage that makes them.
      lengths: whether examples have fewer tokens than N.
    """

    space: CodeSpace
    tokens: int
    tokenizer: str = "tokenizer"
    lengths: bool = False

    def files_of(self, data: Dataset, folder: str = "") -> TokenFiles:
        """Token files of these codes in place of a data set; see `abstract_batch` for their shapes."""
        return TokenFiles.in_place_of(data, folder, self.space.levels, self.tokens, self.lengths)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One thing that is trained.

    Attributes:
      name: of the stage, its checkpoints and its metrics.
      update: how; made by `gradient`, `adversarial` or `streaming_estimator`. None only measures: nothing is
        trained, and there is no checkpoint.
      data: on what.
      steps: for how long, in optimizer steps.
      frozen: names of earlier stages whose variables it reads.
      networks: frozen networks that are no stage, name -> function that loads their variables.
      rules: how its parameters are split over the mesh.
      evaluator: how it is measured and drawn; None for not at all.
      codes: what it can read from token files in place of the data; None where it needs the data.
      classes: how many classes the labels of its batches may name; 0 where it reads no labels.
      null_class: whether it takes examples without a label, as those of no class.
    """

    name: str
    update: Update | None
    data: Dataset
    steps: int
    frozen: tuple[str, ...] = ()
    networks: Mapping[str, Callable[[], Variables]] = dataclasses.field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    evaluator: Evaluator | None = None
    codes: StageCodes | None = None
    classes: int = 0
    null_class: bool = True


# What a state holds beside the collections of the model.
_BOOKKEEPING = ("step", "params", "optimizer", "ema", "discriminator")


def collections_of(state: State) -> Variables:
    """The model's collections beside its parameters, such as the quantizer's state."""
    return {name: value for name, value in state.items() if name not in _BOOKKEEPING}


def inference_variables(state: State) -> Variables:
    """The variables to use a trained model with: averaged parameters if there are any, and all other
    collections.
    """
    return {"params": state.get("ema", state["params"]), **collections_of(state)}


def abstract_batch(
    data: Dataset, fields: Mapping[str, Field] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch, without opening the data.

    Args:
      data: what.
      fields: one of its `shapes`; default the largest.
    """
    shapes = {}
    for name, field in (fields or data.fields()).items():
        shapes[name] = jax.ShapeDtypeStruct((data.batch_size, *field.shape), field.dtype)
        if field.pad == "length":
            shapes[f"{name}_mask"] = jax.ShapeDtypeStruct((data.batch_size, field.shape[0]), jnp.bool_)
    return shapes


def stage_key(seed: int, name: str) -> jax.Array:
    """The key of a stage: the run's seed and the stage's name, so that adding a stage does not change the
    others.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return jax.random.fold_in(jax.random.key(seed), int.from_bytes(digest, "little"))


def update_of(stage: Stage) -> Update:
    """How a stage is trained.

    Raises:
      ValueError: it only measures.
    """
    if stage.update is None:
        raise ValueError(f"stage {stage.name!r} only measures: it has no step of training")
    return stage.update


def network_shapes(load: Callable[[], Variables]) -> Variables:
    """Shapes of a frozen network's variables: of a `FrozenNetwork` from its sizes, of others by loading."""
    shapes = getattr(load, "shapes", None)
    return jax.eval_shape(load) if shapes is None else shapes()
