"""Run by `test_loop.py`, killed, and run again; prints hashes of the final state. Not a test of its own."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import keys as random
from jaxtok.data.arrays import NumpyImages
from jaxtok.evaluate.protocol import Result
from jaxtok.losses.terms import Terms
from jaxtok.train.fingerprint import fingerprint
from jaxtok.train.gradient import gradient
from jaxtok.train.loop import fit
from jaxtok.train.run import Run
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage
from jaxtok.train.tree_paths import leaves_by_path


class MovingCodes:
    """A linear map of pixels, noise, and a codebook that follows: all kinds of state, traced in no time."""

    def init(self, key, batch, frozen):
        kernel, codebook = jax.random.normal(key, (2, 4, 4))
        codes = {"codebook": codebook, "sums": codebook, "counts": jnp.ones(4)}
        return {"params": {"map": {"kernel": kernel}}, "quantizer": codes}

    def loss(self, variables, batch, frozen, keys, step):
        pixels = batch["image"].astype(jnp.float32).reshape(len(batch["image"]), -1, 4) / 127.5 - 1
        z = pixels @ variables["params"]["map"]["kernel"] + 0.1 * random.normal(keys, pixels.shape[1:])
        codebook = variables["quantizer"]["codebook"]
        chosen = jax.nn.one_hot(jnp.argmin(jnp.square(z[..., None, :] - codebook).sum(-1), axis=-1), 4)
        loss = jnp.mean(jnp.square(z - chosen @ codebook)) + jnp.mean(jnp.square(z - pixels))
        statistics = {"counts": chosen.sum((0, 1)), "sums": jnp.einsum("bnk,bnd->kd", chosen, z)}
        return Terms(loss, {"loss": loss}, jax.lax.stop_gradient(statistics), {})

    def update_collections(self, collections, statistics, key):
        moved = {name: 0.9 * collections["quantizer"][name] + 0.1 * statistics[name] for name in statistics}
        codebook = moved["sums"] / jnp.maximum(moved["counts"], 1e-3)[:, None]
        return {**collections, "quantizer": {**moved, "codebook": codebook}}

    def summarise(self, statistics):
        return {}


class Evaluator:
    """Evaluates to a number that every parameter moves."""

    def evaluate(self, trained):
        leaves = jax.tree.leaves(trained.variables["params"])
        return [Result("size", sum(float(abs(np.asarray(leaf, np.float64)).sum()) for leaf in leaves))]

    def figures(self, trained):
        return {}


def main(workdir: str, objective: str, steps: int, save_every: int) -> None:
    # It imports PyTorch, and the digits import scikit-learn: most of the time of a start.
    sys.modules["tensorboardX"] = None
    pictures = str(Path(workdir).with_name("pictures.npy"))
    data = NumpyImages(path=pictures, image_sizes=(8, 16), channels=1, batch_size=8, held_out=8)
    settings = TrainConfig(steps=steps, learning_rate=1e-2, warmup_steps=0, ema_decay=0.9, micro_batches=2)
    if objective == "vq":
        from tests.small_system import SMALL_VQ, tokenizer_update

        update = tokenizer_update(SMALL_VQ, settings)
    else:
        update = gradient(MovingCodes(), settings)
    run = Run(workdir=workdir, log_every=1, save_every=save_every, evaluate_every=3 * save_every)
    state, _ = fit(Stage("tokenizer", update, data, steps, evaluator=Evaluator()), run, {})
    print(json.dumps({path: fingerprint(leaf) for path, leaf in leaves_by_path(state).items()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
