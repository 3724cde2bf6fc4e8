import importlib
import json

import pytest

from experiments.benchmarks import plans
from experiments.benchmarks.plans import CASES, RECORD, Case, chosen, ordered, table

RECORDS = json.loads(RECORD.read_text())


def test_every_case_is_a_stage_of_a_published_preset():
    assert len({case.key for case in CASES}) == len(CASES)
    for case in CASES:
        module = importlib.import_module(f"experiments.image.{case.experiment}")
        config = module.PRESETS[case.preset]
        assert case.stage in [stage.name for stage in module.stages(config)], case.key
        if case.micro_batches > 1:  # the flag that the command gets
            flag = case.command[case.command.index(str(case.micro_batches)) - 1]
            fit = getattr(config, flag.removeprefix("--").split(".")[0])
            assert flag.endswith(".micro-batches") and fit.micro_batches == 1


def test_what_is_recorded_fits():
    records = ordered(RECORDS)
    assert records and len(records) == len(RECORDS), "plans.json has rows of cases that are no more"
    assert all(record["fits"] and record["bytes"] < record["bytes_of_chip"] for record in records)


def test_a_row_says_what_was_planned():
    record = {
        "case": {"experiment": "x", "preset": "p", "stage": "s", "micro_batches": 4, "topology": "v5e:8x8"},
        "mesh": {"data": 16, "fsdp": 4, "tensor": 1},
        "batch": 2048,
        "parameters": 1_234_000_000,
        "bytes": 18e9,
        "bytes_of_chip": 17e9,
        "fits": False,
        "bounds": {"compute": 0.1, "memory": 1.25, "links": 0.003},
    }
    record["case"]["flags"] = ["--a", "b"]
    row = table([record]).splitlines()[-1]
    cells = ("x", "p --a b", "s", "v5e:8x8, 16 x 4, 4 micro-batches", "2,048", "1,234 M", "18.0 of 17, NO")
    assert row == f"| {' | '.join(cells)} | 100, 1,250, 3 |"


def test_cases_are_chosen_by_words(monkeypatch):
    cases = (Case("titok", "l32", "masked"), Case("titok", "l32", "proxy"), Case("var", "d16", "tokenizer"))
    monkeypatch.setattr(plans, "CASES", cases)
    assert chosen(["titok", "proxy"]) == [cases[1]] and chosen([]) == [*cases]
    with pytest.raises(ValueError, match=r"\['l64'\] are no systems, presets or stages; there are \['d16'"):
        chosen(["l64"])
