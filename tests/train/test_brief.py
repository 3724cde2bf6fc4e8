import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxtok.inspect import read_metrics
from jaxtok.train.brief import fit_stages
from jaxtok.train.gradient import gradient
from jaxtok.train.run import Run
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage
from tests.train.test_loop import DATA, Curve, stage


class Second(Curve):
    """Begins where the first stage and a frozen network say."""

    def init(self, key, batch, frozen):
        begin = frozen["curve"]["params"]["line"]["slope"] + frozen["network"]["add"]
        return {"params": {"line": {"slope": begin, "offset": jnp.float32(0)}}}


def test_a_stage_reads_those_before_it(tmp_path, capsys):
    fit = TrainConfig(steps=1, learning_rate=1e-9, warmup_steps=0, ema_decay=0.0)
    networks = {"network": lambda: {"add": jnp.float32(2)}}
    second = Stage("second", gradient(Second(), fit), DATA, 1, ("curve",), networks)
    first, progress = dataclasses.replace(stage(steps=2), networks={}), []
    variables = fit_stages([first, second], Run(str(tmp_path), log_every=1), progress.append)
    assert progress == ["curve: 2 steps done", "second: 1 steps done"] and capsys.readouterr().out == ""
    slopes = [variables[name]["params"]["line"]["slope"] for name in ("curve", "second")]
    np.testing.assert_allclose(slopes[1], slopes[0] + 2, rtol=1e-6)
    assert set(variables) == {"curve", "second"}
    assert len(read_metrics(tmp_path)["curve/loss/curve"][0]) == 2
