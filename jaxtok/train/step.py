"""The compiled step of a stage, and where everything that it takes lives on the mesh.

`jaxtok.train.loop` runs it; `jaxtok.run.plan` compiles it for devices that are not attached.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtok.data.dataset import Dataset
from jaxtok.train.diagnostics import without_nonfinite_steps
from jaxtok.train.sharding import Rule, batch_sharding, shardings
from jaxtok.train.stage import Stage, abstract_batch, update_of
from jaxtok.train.tree_paths import leaves_by_path


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage on a mesh. All trees hold `jax.ShapeDtypeStruct` with their shardings.

    Attributes:
      init: compiled `(key, batch, frozen) -> state`, born sharded.
      update: compiled `(state, batch, frozen, key) -> (state, metrics)`; the state is donated.
      state: what `init` gives.
      batch: what `update` reads, at the largest resolution.
      frozen: variables of earlier stages and frozen networks, by name.
      key: the stage's key.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    state: Any
    batch: Any
    frozen: Any
    key: Any


def make_step(
    stage: Stage, mesh: Mesh, frozen: Any, *, skip_nonfinite: bool = False, data: Dataset | None = None
) -> Step:
    """Chooses shardings by the stage's rules, for its state and for what it reads; allocates nothing.

    Args:
      stage: what is trained.
      mesh: from `make_mesh`.
      frozen: pytree of arrays or shapes, by name.
      skip_nonfinite: see `jaxtok.train.diagnostics.without_nonfinite_steps`.
      data: what the batches come from; default the stage's.

    Raises:
      ValueError: a rule that does not fit, see `jaxtok.train.sharding.shardings`.
    """

    own = update_of(stage)

    def init(key, batch, frozen):
        return own.init(key, batch, frozen)

    careful = without_nonfinite_steps(own) if skip_nonfinite else own

    def update(state, batch, frozen, key):
        return careful(state, batch, frozen, key)

    replicated = NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(data or stage.data)
    frozen = placed(frozen, shardings(frozen, _matching(stage.rules, frozen), mesh))
    shapes = jax.eval_shape(init, key, batch, frozen)
    placement = shardings(shapes, stage.rules, mesh)
    return Step(
        jax.jit(init, out_shardings=placement),
        # The next state lies as this one does, or the second step would be another program.
        jax.jit(update, donate_argnums=0, out_shardings=(placement, replicated)),
        placed(shapes, placement),
        placed(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch)),
        frozen,
        placed(key, replicated),
    )


def _matching(rules: Sequence[Rule], tree: Any) -> list[Rule]:
    """The rules that speak about a frozen tree: its paths end like those of the state, but not all occur."""
    paths = leaves_by_path(tree)
    return [rule for rule in rules if any(rule.matches(path) for path in paths)]


def placed(tree: Any, placement: Any) -> Any:
    """Shapes of a pytree of arrays (or shapes) with these shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        placement,
    )


def placement_of(tree: Any) -> Any:
    """The shardings of what `placed` gave."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)
