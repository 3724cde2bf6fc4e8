"""Which slices hold the published sizes: the verb `plan` for every published stage, one process each.

    python -m experiments.benchmarks.plans                              # what is not in plans.json yet
    python -m experiments.benchmarks.plans --only titok --again         # some systems anew
    python -m experiments.benchmarks.plans --markdown plans.md          # the table alone

Nothing is allocated and no device is used: libtpu compiles (`pip install -e ".[plan]"`), one to ten minutes
a stage on one core. The meshes below are not the fastest, only such that the preset's batch fits; `plan
--search` looks for better ones.
"""

import dataclasses
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.tables.markdown import markdown_table

RECORD = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Case:
    """One stage of a published preset, and where it is to fit.

    Attributes:
      experiment: file in `experiments/image`, without its ending.
      preset: of that file.
      stage: what is trained.
      fsdp: chips that share one copy of the parameters; all others hold copies.
      micro_batches: parts of a batch; 1 for the whole at once.
      topology: the slice.
      flags: further flags of the command.
    """

    experiment: str
    preset: str
    stage: str
    fsdp: int = 1
    micro_batches: int = 1
    topology: str = "v5e:8x8"
    flags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What the case is, as one line."""
        return " ".join(map(str, dataclasses.astuple(self)[:-1])) + "".join(f" {flag}" for flag in self.flags)

    @property
    def command(self) -> list[str]:
        """Arguments of Python for this plan."""
        fit = self.stage if self.stage in FITS else "prior"
        micro = () if self.micro_batches == 1 else (f"--{fit}.micro-batches", str(self.micro_batches))
        return [
            f"experiments/image/{self.experiment}.py",
            "plan",
            *("--preset", self.preset),
            *("--topology", self.topology),
            *("--mesh.fsdp", str(self.fsdp)),
            *("--only", self.stage),
            *micro,
            *self.flags,
        ]


FITS = ("teacher", "proxy", "tokenizer")  # stages whose training has the stage's own name


def titok_cases() -> Iterable[Case]:
    """Two stages where there are proxy codes, one elsewhere, and the masked priors."""
    yield Case("titok", "l32", "teacher")
    for name in ("s128", "b64", "l32"):
        yield from (Case("titok", name, stage) for stage in ("proxy", "tokenizer", "masked"))
    for name in ("bl64-vq", "bl128-vq", "sl256-vq"):
        yield from (Case("titok", name, stage) for stage in ("tokenizer", "masked"))
    yield from (Case("titok", f"{name}-vae", "tokenizer") for name in ("ll32", "bl64", "bl128"))


CASES = (
    *titok_cases(),
    # The tokenizers' own batch, and not that of the generators.
    *(Case("maskgen", name, "tokenizer", flags=("--data.batch-size", "256")) for name in ("vq-l", "kl-l")),
    *(Case("maskgen", name, "masked", 4) for name in ("vq-l", "kl-l")),
    *(Case("maskgen", name, "masked", 16) for name in ("vq-xl", "kl-xl")),
    *(Case("flextok", name, "tokenizer", 64) for name in ("d12-d12", "d18-d18")),
    Case("flextok", "d18-d28", "tokenizer", 64, topology="v5p:4x4x4"),
    Case("flextok", "d18-d28", "autoregressive", 64),
    Case("llamagen", "b", "tokenizer"),
    Case("llamagen", "b", "autoregressive"),
    *(Case("llamagen", name, "autoregressive", 4) for name in ("l", "xl")),
    *(Case("llamagen", name, "autoregressive", 16) for name in ("xxl", "3b")),
    Case("maskgit", "imagenet-256", "tokenizer"),
    # The discriminator takes no micro-batches, and four images of a chip are too many.
    Case("maskgit", "imagenet-512", "tokenizer", topology="v5e:16x16", flags=("--model.codec.shape.remat",)),
    *(Case("maskgit", f"imagenet-{side}", "masked") for side in (256, 512)),
    Case("rar", "b", "autoregressive"),
    Case("rar", "l", "autoregressive", 4),
    Case("rar", "xl", "autoregressive", 16),
    Case("rar", "xxl", "autoregressive", 16, 8),
    Case("var", "d16", "tokenizer"),
    Case("var", "d36", "tokenizer", topology="v5e:16x16"),
    Case("var", "d16", "next_scale", 4),
    Case("var", "d20", "next_scale", 8),
    *(Case("var", name, "next_scale", 16) for name in ("d24", "d30")),
    Case("var", "d36", "next_scale", 32, 4),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Plans what is missing, prints a table and writes it.

    Attributes:
      only: words that are a case's system, preset or stage; all cases if empty.
      again: plan what is there already, too.
      markdown: file for a table in Markdown; none if empty.
    """

    only: tuple[str, ...] = ()
    again: bool = False
    markdown: str = ""


def measure(case: Case) -> dict[str, Any]:
    """The record of a case: bytes per chip, seconds per step.

    Raises:
      RuntimeError: the command failed; the message ends in what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, *case.command, "--out", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(case.command)} failed:\n{done.stderr[-2000:]}")
        plan = json.loads(out.read_text())
    (stage,) = plan["stages"]
    program = stage["program"]
    return {
        "case": dataclasses.asdict(case) | {"flags": list(case.flags)},
        "date": datetime.date.today().isoformat(),
        "mesh": plan["mesh"],
        "compiler": plan["compiler"],
        "parameters": stage["parameters"],
        "batch": stage["batch"],
        "bytes": program["memory"]["total"],
        "bytes_of_chip": plan["chip"]["memory"],
        "fits": program["fits"],
        "bounds": program["bounds"],
    }


def table(records: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row per record."""
    header = (
        "system", "preset", "stage", "slice, mesh (data x fsdp)", "batch", "parameters",
        "GB per chip", "least ms: arithmetic, memory, links",
    )  # fmt: skip
    return markdown_table(header, [_row(record) for record in records])


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    case, mesh, bounds = record["case"], record["mesh"], record["bounds"]
    micro = f", {case['micro_batches']} micro-batches" if case["micro_batches"] > 1 else ""
    least = [f"{bounds[name] * 1e3:,.0f}" for name in ("compute", "memory", "links")] if bounds else ["-"]
    return (
        case["experiment"],
        " ".join((case["preset"], *case["flags"])),
        case["stage"],
        f"{case['topology']}, {mesh['data']} x {mesh['fsdp']}{micro}",
        f"{record['batch']:,}",
        f"{record['parameters'] / 1e6:,.0f} M",
        f"{record['bytes'] / 1e9:.1f} of {record['bytes_of_chip'] / 1e9:.0f}"
        + ("" if record["fits"] else ", NO"),
        ", ".join(least),
    )


def ordered(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of today's cases, in their order."""
    return [records[case.key] for case in CASES if case.key in records]


def main(options: Options) -> None:
    """Plans and writes; what was planned before an interruption stays."""
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for case in chosen(options.only):
        if options.again or case.key not in records:
            print(" ".join(case.command), flush=True)
            records[case.key] = measure(case)
            print("  " + " | ".join(_row(records[case.key])), flush=True)
            RECORD.write_text(json.dumps(records, indent=1) + "\n")
    if options.markdown:
        Path(options.markdown).write_text(table(ordered(records)) + "\n")


def chosen(words: Sequence[str]) -> list[Case]:
    """The cases of some systems or presets.

    Raises:
      ValueError: a word that no case has.
    """
    known = {word for case in CASES for word in (case.experiment, case.preset, case.stage)}
    if unknown := sorted({*words} - known):
        raise ValueError(f"{unknown} are no systems, presets or stages; there are {sorted(known)}")
    return [
        case for case in CASES if all(word in (case.experiment, case.preset, case.stage) for word in words)
    ]


if __name__ == "__main__":
    main(tyro.cli(Options))
