"""One self-contained HTML page about a run: what was set, how it went, what came out, what is missing.

Everything comes from the files of the run, so the page takes a second, needs no model and no accelerator, and
works while the run is going. It loads nothing: its style is inside, pictures are data, and a content security
policy forbids everything else.
"""

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtok.evaluate.headlines import basis, is_headline
from jaxtok.inspect.html_page import html_page, write_page
from jaxtok.inspect.report_samples import samples_section
from jaxtok.inspect.report_stages import results_table, stage_section
from jaxtok.inspect.report_words import duration, leaves, missing, number, progress, table, text
from jaxtok.inspect.run_folder import RunFiles, StageFiles, read_run

_TILES_PER_STAGE, _MOST_TILES = 2, 12


def write_report(path: str | os.PathLike, workdir: str | os.PathLike) -> Path:
    """Writes the report of a run as one HTML file, replacing an older one.

    Args:
      path: the file to write; its folder is made if absent.
      workdir: the run, finished or going.

    Raises:
      FileNotFoundError: there is no run in `workdir`.
      ValueError: `config.json` is not one of a run.
    """
    path = Path(path)
    page = html_report(read_run(workdir), datetime.datetime.now().astimezone())
    write_page(path, page)
    return path


def html_report(run: RunFiles, now: datetime.datetime) -> str:
    """The page about what `read_run` found, as it is at the time `now`."""
    title = f"{run.record['experiment']} · {run.path.resolve().name}"
    stages = "".join(stage_section(stage, place) for place, stage in enumerate(run.stages))
    results = "".join(results_table(stage) for stage in run.stages)
    links = [("results", "Results"), ("stages", "Stages")]
    links += [(f"stage-{place}", stage.name) for place, stage in enumerate(run.stages)]
    samples = samples_section(run.path / "samples")
    links += [("samples", "Samples")] if samples else []
    links += [("configuration", "Configuration"), ("environment", "Environment")]
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p class="lead">{text(_summary(run, now))}</p>',
        f'<p class="faint">Written {now:%Y-%m-%d %H:%M %Z} from the files in '
        f"<code>{text(run.path)}</code>.</p>",
        "<nav>" + "".join(f'<a href="#{link}">{text(name)}</a>' for link, name in links) + "</nav>",
        _tiles(run.stages),
        _absent(run),
        '<h2 id="results">Results on held-out data</h2>',
        f'<div class="results">{results}</div>' if results else missing("Nothing has been measured yet."),
        '<h2 id="stages">Stages</h2>',
        stages or missing("No stage has begun."),
        f'<h2 id="samples">Samples</h2><div class="pictures">{samples}</div>' if samples else "",
        '<h2 id="configuration">Configuration</h2>',
        _configuration(run.record["config"]),
        '<h2 id="environment">Environment</h2>',
        _environment(run.record),
    ]
    return html_page(title, "\n".join(body))


def _summary(run: RunFiles, now: datetime.datetime) -> str:
    """One line: how far it is, how long it took, from which source."""
    trained = [stage for stage in run.stages if stage.trained]
    words = [f"{len(trained)} of {len(run.stages)} stages trained" if run.stages else "no stage has begun"]
    for stage in run.stages:
        if stage not in trained and stage.step:
            words.append(f"{stage.name} at step {progress(stage)}")
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if seconds:
        words.append(f"{duration(sum(seconds))} in all")
    elif run.written is not None:
        words.append(f"metrics last written {duration(now.timestamp() - run.written)} before this page")
    if run.record.get("commit"):
        words.append(f"commit {run.record['commit']}")
    if devices := run.record.get("devices"):
        words.append(str(devices[0]))
    return ", ".join(words) + "."


def _tiles(stages: Sequence[StageFiles]) -> str:
    """The first main results of each stage in large figures; speeds are left to the tables."""
    tiles = []
    for stage in stages:
        main = [r for r in stage.results if is_headline(r.name) and not r.name.startswith("samples_per")]
        for result in main[:_TILES_PER_STAGE]:
            words = "".join(f"<span>{text(w)}</span>" for w in (result.name, basis(result)) if w)
            large = f"<b>{number(result.value)}</b>"
            tiles.append(f'<div class="tile"><span>{text(stage.name)}</span>{large}{words}</div>')
    return f'<div class="tiles">{"".join(tiles[:_MOST_TILES])}</div>' if tiles else ""


def _absent(run: RunFiles) -> str:
    """Everything that a reader may look for and that is not there, with what brings it."""
    lines = list(run.problems)
    waiting = [stage.name for stage in run.stages if not stage.step and stage.checkpoint is None]
    if waiting:
        lines.append(f"Not begun: {', '.join(waiting)}.")
    if run.written is None:
        lines.append("No metrics.jsonl: the run has not taken its first step.")
    begun = [stage for stage in run.stages if stage.name not in waiting]
    if unmeasured := [stage.name for stage in begun if not stage.results]:
        lines.append(
            f"Not measured with protocols: {', '.join(unmeasured)}. results.json is written at the end of a "
            "run, and by the verb evaluate from checkpoints at any time."
        )
    if undrawn := [stage.name for stage in begun if not stage.figures]:
        lines.append(
            f"No pictures: {', '.join(undrawn)}. A stage draws them at its end, and while it trains with "
            "--evaluate-every; baselines may have none."
        )
    return f'<ul class="absent">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>' if lines else ""


def _configuration(config: Mapping[str, Any]) -> str:
    """A table per part of the configuration, in two columns."""
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    parts = {"": plain} if plain else {}
    parts |= {name: value for name, value in config.items() if isinstance(value, Mapping)}
    tables = [
        f"<section><h3>{text(name or 'general')}</h3>{table(leaves(value))}</section>"
        for name, value in parts.items()
    ]
    return f'<div class="card columns">{"".join(tables)}</div>'


def _environment(record: Mapping[str, Any]) -> str:
    rows: list[tuple[str, Any]] = [("seed", record.get("seed")), ("commit", record.get("commit"))]
    rows += [("devices", ", ".join(map(str, record.get("devices", ()))))]
    rows += list(record.get("versions", {}).items())
    run = record.get("run", {})
    return (
        '<div class="card columns">'
        f"<section><h3>source and packages</h3>{table(rows)}</section>"
        f"<section><h3>how it was run</h3>{table(leaves(run))}</section></div>"
    )
