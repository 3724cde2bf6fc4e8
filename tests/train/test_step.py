"""Where a stage's step finds and leaves its arrays."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from experiments.image import instella_t2i
from jaxtok.run.plan.stages import frozen_shapes
from jaxtok.train.sharding import BATCH_AXES, MeshShape, make_mesh
from jaxtok.train.stage import Stage
from jaxtok.train.step import make_step
from jaxtok.train.tree_paths import leaves_by_path
from tests.small_run import SMALL_CONFIG


@pytest.fixture(scope="module")
def step():
    stages = list(instella_t2i.stages(SMALL_CONFIG))
    prior = next(stage for stage in stages if stage.name == "diffusion")
    return make_step(prior, make_mesh(MeshShape(2, 2, 2)), frozen_shapes(prior, stages))


def test_frozen_variables_are_split_by_the_rules_of_the_state(step):
    state, frozen = leaves_by_path(step.state), leaves_by_path(step.frozen)
    query = next(path for path in frozen if path.endswith("attention/query/kernel"))
    assert query.startswith("tokenizer/params/") and frozen[query].sharding.spec[-2:] == ("fsdp", "tensor")
    own = next(path for path in state if path.endswith("stack/block/attention/query/kernel"))
    assert state[own].sharding.spec[-2:] == ("fsdp", "tensor")


def test_the_batch_is_split_and_the_key_is_everywhere(step):
    assert all(leaf.sharding.spec == P(BATCH_AXES) for leaf in jax.tree.leaves(step.batch))
    assert step.key.sharding.spec == P() and jax.dtypes.issubdtype(step.key.dtype, jax.dtypes.prng_key)


class Doubling:
    """An update whose result the compiler would leave on every device."""

    def init(self, key, batch, frozen):
        return {"step": jnp.int32(0), "params": {"w": jnp.zeros((512, 512))}}

    def __call__(self, state, batch, frozen, key):
        w = jax.lax.with_sharding_constraint(2 * state["params"]["w"], P())
        return {"step": state["step"] + 1, "params": {"w": w}}, {"norm": jnp.sum(w)}


def test_the_next_state_lies_where_this_one_did():
    mesh = make_mesh(MeshShape(4, 2, 1))
    step = make_step(Stage("doubling", Doubling(), SMALL_CONFIG.data, 1), mesh, {})
    with jax.set_mesh(mesh):
        compiled = step.update.lower(step.state, step.batch, step.frozen, step.key).compile()
    assert step.state["params"]["w"].sharding.spec == P(None, "fsdp")
    w = compiled.output_shardings[0]["params"]["w"]
    assert w.is_equivalent_to(step.state["params"]["w"].sharding, 2)
