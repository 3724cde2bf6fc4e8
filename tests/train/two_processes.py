"""Run by `test_distributed.py` twice at the same time; not a test of its own."""

import logging
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxtok.train.checkpoints import Checkpoints
from jaxtok.train.distributed import Distributed, finish, initialize
from jaxtok.train.preemption import StopSignal
from jaxtok.train.sharding import MeshShape, Rule, make_mesh, shardings, to_global


def main(process: int, port: int, directory: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    initialize(Distributed(coordinator=f"localhost:{port}", process=process, processes=2))
    mesh = make_mesh(MeshShape(data=2, fsdp=-1))
    batch = to_global({"x": np.full((2, 3), process, np.float32)}, mesh)
    assert batch["x"].shape == (4, 3)
    assert float(jax.jit(lambda tree: tree["x"].sum())(batch)) == 6.0

    shapes = {"w": jax.ShapeDtypeStruct((8, 4), np.float32), "step": jax.ShapeDtypeStruct((), np.int32)}
    placed = shardings(shapes, [Rule("w", (("data", "fsdp"), None))], mesh)
    create = jax.jit(
        lambda: {"w": jax.numpy.arange(32.0).reshape(8, 4), "step": jax.numpy.int32(7)}, out_shardings=placed
    )
    target = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        placed,
    )
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, create(), {"position": 1})
        checkpoints.save(2, create(), {"position": 2})
        checkpoints.wait()
        state, metadata = checkpoints.restore(target)
    assert metadata == {"position": 2}
    same = jax.jit(lambda a, b: (a["w"] == b["w"]).all() & (a["step"] == b["step"]))(state, create())
    assert bool(same)

    with StopSignal() as stop:
        assert not stop.agreed()
        stop.requested = process == 1
        assert stop.agreed()
    if process == 1:
        time.sleep(2)  # the coordinator waits for the last one
    finish()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
