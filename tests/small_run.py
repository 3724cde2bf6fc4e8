"""The experiment of Instella-T2I with the smallest model on digits, through its command line."""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.image import instella_t2i
from jaxtok import cli
from jaxtok.run.claims import Claim
from jaxtok.train import loop
from jaxtok.train.sharding import MeshShape, make_mesh
from tests.small_system import SMALL

SMALL_CONFIG = dataclasses.replace(
    instella_t2i.TINY,
    data=dataclasses.replace(instella_t2i.TINY.data, text_length=16),
    model=SMALL,
    baseline_steps=3,
)
PRESETS = {"tiny": SMALL_CONFIG, "other": dataclasses.replace(SMALL_CONFIG, classes=0)}


def small_cli(
    *argv: str | Path,
    presets: Mapping[str, Any] = PRESETS,
    claims: Sequence[Claim] = instella_t2i.CLAIMS,
) -> str:
    """Runs the command line in this process on one device; what it printed. Errors go to `sys.stderr`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda shape: make_mesh(MeshShape(1), jax.devices()[:1]))
        words = [str(word) for word in argv]
        experiment = instella_t2i
        cli.main("instella_t2i", presets, experiment.stages, claims, experiment.__doc__, words)
    return out.getvalue()


def train_small(workdir: Path, *flags: str) -> str:
    """Three steps of every stage; what was printed."""
    steps = ("--tokenizer.steps", "3", "--prior.steps", "3")
    return small_cli("train", "--workdir", workdir, *steps, *flags)
