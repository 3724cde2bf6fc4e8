import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.train.loop_watch import LoopWatch, Trace


def test_only_compilations_of_known_shapes_count():
    watch = LoopWatch()
    fresh = itertools.count()
    update = jax.jit(lambda state, batch: state + batch["image"].sum())

    def compiles_every_time(state, batch):
        number = next(fresh)  # a constant that is new: another program
        return jax.jit(lambda s: s + number)(state)

    for size in (2, 3, 2, 3, 2):
        watch.call(update, jnp.float32(0), {"image": np.zeros((size, 4))})
    assert (watch.shapes, watch.recompiled) == (2, 0)
    watch.call(compiles_every_time, jnp.float32(0), {"image": np.zeros((2, 4))})
    assert watch.recompiled == 1
    assert watch.describe().startswith("1 recompilations in steps after the warm-up of 2 batch shapes; ")


def test_waiting_counts_from_the_second_batch_on():
    def slow():
        for number in range(3):
            time.sleep(0.2)
            yield number

    watch, batches = LoopWatch(), slow()
    assert watch.next(batches) == 0 and watch.waiting == 0
    watch.call(lambda state, batch: time.sleep(0.1), None, {})
    assert watch.next(batches) == 1
    assert watch.waiting > 0.9  # the step before it was the warm-up
    for _ in range(5):
        watch.call(lambda state, batch: time.sleep(0.1), None, {})
    assert 0.05 < watch.waiting < 0.5


def test_a_trace_of_some_steps(tmp_path, capsys):
    trace, state = Trace(tmp_path, 2), jnp.float32(0)
    for done in range(1, 15):
        state = state + 1
        trace.after(done, state)
    assert "2 steps are profiled in" in capsys.readouterr().out
    assert list(tmp_path.rglob("*.xplane.pb"))
    nothing = tmp_path / "nothing"
    for done in range(1, 15):
        Trace(nothing, 0).after(done, state)
    assert not nothing.exists()
