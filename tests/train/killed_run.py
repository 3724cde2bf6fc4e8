"""Run by `test_loop.py`, killed, and run again; prints hashes of the final state. Not a test of its own."""

import dataclasses
import json
import sys

from jaxtok.data.config import Data
from jaxtok.train.fingerprint import fingerprint
from jaxtok.train.loop import fit
from jaxtok.train.run import Run
from jaxtok.train.stage import Stage
from jaxtok.train.tree_paths import leaves_by_path
from tests.small_system import FIT, SMALL_VQ, tokenizer_update


def main(workdir: str, steps: int, save_every: int) -> None:
    data = Data("digits", image_sizes=(8, 16), channels=1, batch_size=8)
    update = tokenizer_update(SMALL_VQ, dataclasses.replace(FIT, steps=steps, micro_batches=2))
    run = Run(workdir=workdir, log_every=1, save_every=save_every)
    state, _ = fit(Stage("tokenizer", update, data, steps), run, {})
    print(json.dumps({path: fingerprint(leaf) for path, leaf in leaves_by_path(state).items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
