"""What the verbs of an experiment do beside `train`: measure, sample, encode, decode, verify."""

import dataclasses
import datetime
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxtok.codes import Latents
from jaxtok.config_files import from_json
from jaxtok.data.token_shards import TokenShards, shard_path
from jaxtok.evaluate.protocol import Result, write_results
from jaxtok.run.claims import evaluate_claims, with_steps
from jaxtok.run.evaluators.features import FeatureMeasures, FeatureOptions
from jaxtok.run.evaluators.latents import LatentMeasures, LatentOptions
from jaxtok.run.experiment import Experiment, commit_of_source, train, write_json
from jaxtok.run.pretrained import Restored, load, read_config, restore_stage
from jaxtok.run.requests import read_request, repeated, titles, write_requests
from jaxtok.run.token_files import encode_data, tokenizer_hash
from jaxtok.run.trained import Trained
from jaxtok.systems.contract import Request
from jaxtok.train.loop import evaluation_batches
from jaxtok.train.run import Run
from jaxtok.train.stage import TrainedStage, abstract_batch, collections_of, stage_key

_DECODED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures every trained stage of a run on held-out data, prints a table and writes `results.json`, which
    `python -m jaxtok.evaluate compare` compares with that of another run.

    Attributes:
      workdir: the run.
      features: feature networks, for Frechet distances, neighbours and class scores.
      latents: what else to measure of codes, and CLIP.
      out: file for the results; default `<workdir>/results.json`.
    """

    workdir: str = ""
    features: FeatureOptions = FeatureOptions()
    latents: LatentOptions = LatentOptions()
    out: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Samples what is asked for, and writes a file per sample, `requests.jsonl` and an overview.

    Attributes:
      workdir: a run, or a folder of `save_pretrained`.
      prior: which prior; default the last that was trained.
      captions: texts to sample for; for a prior of classes their numbers.
      labels: classes to sample, by their numbers.
      lengths: of the samples, in units of the data, for priors that take one; one for all, or one for each.
      request: file with what to sample: captions.txt, items.csv or prompts.jsonl, see
        `jaxtok.run.requests.read_request`.
      count: samples of each; of a prior without a condition the number of samples.
      seed: of the noise.
      guidance: strength of guidance; default the recommended one.
      temperature: sampling temperature; default the recommended one.
      steps: steps of a diffusion prior; default the recommended number.
      raw: use the raw parameters in place of their running average.
      out: folder for the samples; default `<workdir>/samples`.
    """

    workdir: str = ""
    prior: str = ""
    captions: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    request: str = ""
    count: int = 8
    seed: int = 0
    guidance: float | None = None
    temperature: float | None = None
    steps: int | None = None
    raw: bool = False
    out: str = ""


@dataclasses.dataclass(frozen=True)
class Encode:
    """Turns a data set into token files: packed bits in shards, and a manifest. The same command again makes
    what is missing; `train --tokens` trains priors on them.

    Attributes:
      workdir: a run, or a folder of `save_pretrained`.
      split: "train" or "eval" of the run's data.
      out: folder for the tokens; default `<workdir>/tokens-<split>`.
      augmentations: augmented versions of each record; 0 for one without augmentation.
      shard_size: records per file, about; 0 for 64 MiB of codes.
      part: this process makes every `parts`-th shard from this one on; many machines can share the work.
      parts: among how many the shards are shared.
    """

    workdir: str = ""
    split: Literal["train", "eval"] = "train"
    out: str = ""
    augmentations: int = 0
    shard_size: int = 0
    part: int = 0
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class Decode:
    """Turns token files back into what was encoded.

    Attributes:
      workdir: a run, or a folder of `save_pretrained`; it has to be the tokenizer that wrote the tokens.
      tokens: folder with the tokens; default `<workdir>/tokens-train`.
      out: folder for the files; default `<workdir>/decoded`.
      count: how many; 0 for all.
      size: of images, side in pixels; 0 for the model's own.
    """

    workdir: str = ""
    tokens: str = ""
    out: str = ""
    count: int = 64
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Verify:
    """Trains the arms of the claims with paired seeds and says which claims hold.

    Attributes:
      workdir: where the arms are trained.
      seeds: paired seeds; three or more for a claim to mean something.
      only: words of which at least one must occur in a claim's name; none for all claims.
      steps: replaces the steps of every stage, to try whether everything runs; 0 leaves them.
      out: file for the outcome; default `<workdir>/claims.json`.
    """

    workdir: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()
    steps: int = 0
    out: str = ""


def train_verb(experiment: Experiment, config: Any, run: Run) -> None:
    """Trains and prints what was measured."""
    start = time.monotonic()
    results = train(experiment, config, run, only=run.only)
    if jax.process_index() == 0:
        print_results(results)
        print(f"{time.monotonic() - start:.0f} s; everything is in {run.workdir}")


def evaluate_verb(experiment: Experiment, options: Evaluate) -> None:
    """Evaluates the stages of a run that have a checkpoint."""
    workdir = Path(options.workdir)
    record = read_config(workdir)
    config = from_json(type(next(iter(experiment.presets.values()))), record["config"])
    measured = options.features.network != "none"
    measures = FeatureMeasures(options.features, record["seed"]) if measured else None
    latents = LatentMeasures(options.latents)
    variables: dict[str, Any] = {}
    results: dict[str, list[Result]] = {}
    for stage in experiment.stages(config):
        if not set(stage.frozen) <= set(variables):
            continue
        frozen = {name: variables[name] for name in stage.frozen} | {
            n: f() for n, f in stage.networks.items()
        }
        key = stage_key(record["seed"], stage.name)
        if stage.update is None:
            restored = Restored({}, False, 0)
        else:
            shapes = jax.eval_shape(stage.update.init, key, abstract_batch(stage.data), frozen)
            shapes = {"params": shapes["params"], **collections_of(shapes)}
            restored = restore_stage(workdir, stage.name, shapes)
        if restored is None:
            continue
        variables[stage.name] = restored.variables
        if stage.evaluator is None:
            continue
        batches = functools.partial(evaluation_batches, stage.data)
        key = jax.random.fold_in(key, restored.step)
        trained = TrainedStage(restored.variables, frozen, batches, key, restored.averaged)
        evaluator = latents.scored(stage.evaluator)
        found = evaluator.evaluate(trained) if measures is None else measures.evaluate(evaluator, trained)
        results[stage.name] = found + latents.results(evaluator, trained, stage.data, found)
    if not results:
        raise FileNotFoundError(f"no checkpoint in {workdir}; train first")
    print_results(results)
    flat = [
        dataclasses.replace(row, name=f"{stage}/{row.name}")
        for stage, rows in results.items()
        for row in rows
    ]
    out = Path(options.out or workdir / "results.json")
    write_results(out, flat)
    print(f"with their protocols in {out}")
    latents.check_served()
    if measures is not None:
        measures.check_served()


def sample_verb(experiment: Experiment, options: Sample) -> None:
    """Samples what is asked for."""
    del experiment
    trained = load(options.workdir, averaged=not options.raw)
    chosen = {name: getattr(options, name) for name in ("guidance", "temperature", "steps")}
    settings = {name: value for name, value in chosen.items() if value is not None}
    request = repeated(_asked(trained, options), options.count)
    values, _ = trained.sample(request, options.prior, options.seed, **settings)
    out, columns = Path(options.out or Path(options.workdir) / "samples"), options.count
    names = [f"{number:06d}" for number in range(len(values))]
    files = trained.modality.write(out, values, names, request.lengths)
    write_requests(out / "requests.jsonl", request, files)
    overview = trained.modality.samples(values, titles(request)[::columns], columns)
    overview.savefig(out / "grid.png", dpi=150, bbox_inches="tight")
    print(f"{len(values)} {trained.modality.noun}, requests.jsonl and grid.png in {out}")


def _asked(trained: Trained, options: Sample) -> Request:
    """What the flags ask for.

    Raises:
      ValueError: captions, labels and a file at once, or nothing of a system that needs some.
    """
    sources = {"captions": options.captions, "labels": options.labels, "request": options.request}
    given = [name for name, value in sources.items() if value]
    if len(given) > 1:
        raise ValueError(f"--{' and --'.join(given)} all say what to sample; give one of them")
    if options.request:
        request = read_request(options.request)
    elif options.labels:
        request = Request(labels=options.labels)
    elif options.captions:
        request = trained.system.request_of(options.captions)
    else:
        request = trained.system.request_of(1)
    if not options.lengths:
        return request
    lengths = options.lengths * request.rows if len(options.lengths) == 1 else options.lengths
    return dataclasses.replace(request, lengths=lengths)


def encode_verb(experiment: Experiment, options: Encode) -> None:
    """Turns the data of a run into token files."""
    workdir = Path(options.workdir)
    record = read_config(workdir)
    config = from_json(type(next(iter(experiment.presets.values()))), record["config"])
    out = Path(options.out or workdir / f"tokens-{options.split}")
    start = time.monotonic()
    trained = load(workdir)
    manifest = encode_data(
        trained,
        config.data,
        out,
        options.split,
        augmentations=options.augmentations,
        shard_size=options.shard_size,
        part=options.part,
        parts=options.parts,
        on_progress=lambda line: print(f"{line} ({time.monotonic() - start:.0f} s)", flush=True),
    )
    seconds = time.monotonic() - start
    own = range(options.part, manifest.shards, options.parts)
    entries, size = sum(len(manifest.rows(shard)) for shard in own), manifest.bytes_per_entry
    noun = trained.modality.noun
    written = sum(shard_path(out, "tokens", shard).stat().st_size for shard in own)
    print(
        f"{entries:,} {noun} as {size} bytes each, {written / 1e6:,.2f} MB in {len(own)} "
        f"file{'s' * (len(own) != 1)} in {out}, "
        f"{entries / seconds:,.0f} {noun}/s"
    )


def decode_verb(experiment: Experiment, options: Decode) -> None:
    """Turns token files back into signals."""
    del experiment
    trained = load(options.workdir)
    tokens = TokenShards(options.tokens or str(Path(options.workdir) / "tokens-train"))
    written_by, own = tokens.manifest.tokenizer, tokenizer_hash(trained.variables.get("tokenizer", {}))
    if written_by != own:
        raise ValueError(
            f"tokens written by tokenizer {written_by}, {options.workdir} holds {own}; encode "
            "again or use the other run"
        )
    out = Path(options.out or Path(options.workdir) / "decoded")
    size = ((options.size, options.size),) if options.size else ()
    count = min(options.count or len(tokens), len(tokens))
    start = time.monotonic()
    for first in range(0, count, _DECODED_AT_ONCE):
        entries = range(first, min(first + _DECODED_AT_ONCE, count))
        latents, names = _stored(tokens, entries), [f"{entry:06d}" for entry in entries]
        lengths = trained.system.output_lengths(latents)
        trained.write(out, trained.decode(latents, *size), names, lengths)
    noun = trained.modality.noun
    print(f"{count:,} {noun} in {out}, {count / (time.monotonic() - start):,.0f} {noun}/s")


def _stored(tokens: TokenShards, entries: range) -> Latents:
    """Latents of entries, with their lengths as a mask."""
    codes, lengths = tokens.codes(entries), tokens.lengths(entries)
    if lengths is None:
        return Latents(codes=jnp.asarray(codes))
    present = np.arange(codes.shape[1]) < lengths[:, None]
    return Latents(codes=jnp.asarray(codes), mask=jnp.broadcast_to(present[..., None], codes.shape))


def verify_verb(experiment: Experiment, config: Any, options: Verify, preset: str) -> None:
    """Trains the arms of the claims and says which hold."""
    workdir = Path(options.workdir)
    words = [word.lower() for word in options.only]
    claims = [
        claim for claim in experiment.claims if not words or any(word in claim.name.lower() for word in words)
    ]
    if not claims:
        raise ValueError(
            f"no claim has any of the words {words} in its name; claims are "
            f"{[c.name for c in experiment.claims]}"
        )
    if options.steps:
        config = with_steps(config, options.steps)
    # What an earlier command has trained is not trained again, so this one's time says nothing then.
    whole, start = not any(workdir.glob("*/seed-*")), time.monotonic()

    def run_arm(own: Any, seed: int, stages: Sequence[str], identity: str) -> dict[str, float]:
        run = Run(
            workdir=str(workdir / identity / f"seed-{seed}"), seed=seed, log_every=max(options.steps, 200)
        )
        if options.steps:
            own = with_steps(own, options.steps)  # an arm may have steps of its own
        results = train(experiment, own, run, only=stages)
        return {f"{stage}/{result.name}": result.value for stage, rows in results.items() for result in rows}

    outcomes = evaluate_claims(claims, config, options.seeds, run_arm)
    outcome = {
        "experiment": experiment.name,
        "preset": preset,
        "seeds": list(options.seeds),
        "commit": commit_of_source(),
        "date": datetime.date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1) if whole else None,
        "claims": outcomes,
    }
    if options.steps:
        outcome["steps"] = options.steps
    out = Path(options.out or workdir / "claims.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, outcome)
    print_claims(outcomes)
    print(f"written to {out}")


def print_results(results: dict[str, list[Result]]) -> None:
    """A table of all results, a row each; protocols are in the files."""
    table = Table("stage", "metric", "value", title="held-out results", title_justify="left")
    for stage, rows in results.items():
        for number, row in enumerate(rows):
            table.add_row(
                "" if number else stage, row.name, f"{row.value:.4g}", end_section=number == len(rows) - 1
            )
    if table.row_count:
        Console(width=None if Console().is_terminal else 100).print(table)


def print_claims(outcomes: Sequence[dict[str, Any]]) -> None:
    """A table of claims: what was measured per arm (mean over seeds), and whether the relation holds in every
    seed.
    """
    table = Table("claim", "arms (mean over seeds)", "holds in every seed")
    for claim in outcomes:
        arms = "\n".join(f"{arm['label']}: {np.mean(arm['values']):.4g}" for arm in claim["arms"])
        margin = ""
        if claim["margin"] is not None:
            reached = "reached" if claim["margin_reached"] else "not reached"
            margin = f"\nmargin {claim['margin']:g} {reached} ({claim['smallest_mean_difference']:.3g})"
        table.add_row(claim["name"], arms, ("yes" if claim["holds"] else "NO") + margin, end_section=True)
    Console(width=None if Console().is_terminal else 110).print(table)
