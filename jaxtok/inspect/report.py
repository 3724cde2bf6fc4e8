"""One self-contained HTML page about a run: what was set, how it went, what came out, what is missing.

Everything comes from the files of the run, so the page takes a second, needs no model and no accelerator, and
works while the run is going. It loads nothing: its style is inside, pictures are data, and a content security
policy forbids everything else.
"""

import base64
import datetime
import html
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtok.evaluate.headlines import basis, is_headline
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect.report_style import STYLE
from jaxtok.inspect.run_folder import FigureFile, RunFiles, StageFiles, read_run
from jaxtok.inspect.svg import svg_curve

_TILES_PER_STAGE, _MOST_TILES = 2, 12
_MOST_CURVES = 9  # shown at once; the others are one click away
_MOST_EARLIER = 4
_WIDE = 900  # pixels from which a picture scrolls on a phone

_CAPTIONS = {
    "reconstructions": "Held-out images, their reconstructions and maps of the absolute error",
    "codes": "How the alphabet is used by held-out images",
    "samples": "Samples, one row per caption or class",
    "prefixes": "Images drawn from the first tokens only",
}


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def html_report(run: RunFiles, now: datetime.datetime) -> str:
    """The page about what `read_run` found, as it is at the time `now`."""
    title = f"{run.record['experiment']} · {run.path.resolve().name}"
    stages = "".join(_stage(stage, number) for number, stage in enumerate(run.stages))
    results = "".join(_results(stage) for stage in run.stages)
    links = [("results", "Results"), ("stages", "Stages")]
    links += [(f"stage-{number}", stage.name) for number, stage in enumerate(run.stages)]
    links += [("configuration", "Configuration"), ("environment", "Environment")]
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="lead">{_text(_summary(run, now))}</p>',
        f'<p class="faint">Written {now:%Y-%m-%d %H:%M %Z} from the files in '
        f"<code>{_text(run.path)}</code>.</p>",
        "<nav>" + "".join(f'<a href="#{link}">{_text(name)}</a>' for link, name in links) + "</nav>",
        _tiles(run.stages),
        _absent(run),
        '<h2 id="results">Results on held-out data</h2>',
        f'<div class="results">{results}</div>' if results else _missing("Nothing has been measured yet."),
        '<h2 id="stages">Stages</h2>',
        stages or _missing("No stage has begun."),
        '<h2 id="configuration">Configuration</h2>',
        _configuration(run.record["config"]),
        '<h2 id="environment">Environment</h2>',
        _environment(run.record),
    ]
    lines = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><main>\n{lines}\n</main></body></html>\n"
    )


# -- the top of the page --


def _summary(run: RunFiles, now: datetime.datetime) -> str:
    """One line: how far it is, how long it took, from which source."""
    trained = [stage for stage in run.stages if stage.trained]
    words = [f"{len(trained)} of {len(run.stages)} stages trained" if run.stages else "no stage has begun"]
    for stage in run.stages:
        if stage not in trained and stage.step:
            words.append(f"{stage.name} at step {_progress(stage)}")
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if seconds:
        words.append(f"{_duration(sum(seconds))} in all")
    elif run.written is not None:
        words.append(f"metrics last written {_duration(now.timestamp() - run.written)} before this page")
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
            words = "".join(f"<span>{_text(w)}</span>" for w in (result.name, basis(result)) if w)
            number = f"<b>{_number(result.value)}</b>"
            tiles.append(f'<div class="tile"><span>{_text(stage.name)}</span>{number}{words}</div>')
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
    return f'<ul class="absent">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>' if lines else ""


# -- results --


def _results(stage: StageFiles) -> str:
    if stage.results:
        return _measured(stage.name, stage.results)
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code></td>"
        f'<td class="value">{_number(values[-1])}<div class="protocol">step {steps[-1]:,}</div></td></tr>'
        for name, (steps, values) in stage.evaluated.items()
    )
    if not rows:
        return ""
    return _card(stage.name, "Of the newest evaluation during training; without protocols.", rows)


def _measured(name: str, results: Sequence[Result]) -> str:
    """A table; what all protocols share is said once above it."""
    first = results[0].protocol
    shared = {
        key: value
        for key, value in first.items()
        if len(results) > 1 and all(key in r.protocol and r.protocol[key] == value for r in results)
    }
    rows = []
    for result in results:
        own = {key: value for key, value in result.protocol.items() if key not in shared}
        rows.append(
            f"<tr{' class=main' * is_headline(result.name)}><td><code>{_text(result.name)}</code>"
            f'<div class="protocol">{_text(_protocol(own))}</div></td>'
            f'<td class="value">{_number(result.value)}</td></tr>'
        )
    return _card(name, f"All: {_protocol(shared)}" if shared else "", "".join(rows))


def _card(name: str, note: str, rows: str) -> str:
    note = f'<p class="protocol">{_text(note)}</p>' if note else ""
    return f'<div class="card"><h3>{_text(name)}</h3>{note}<table>{rows}</table></div>'


def _protocol(entries: Mapping[str, Any]) -> str:
    return " · ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in _leaves(entries)
    )


# -- stages --


def _stage(stage: StageFiles, number: int) -> str:
    parts = [f'<h2 id="stage-{number}" style="font-size:18px">{_text(stage.name)}</h2>', _state(stage)]
    evaluated = {f"eval/{k}": curve for k, curve in stage.evaluated.items() if len(curve[0]) > 1}
    ordered = sorted({**stage.curves, **evaluated}.items(), key=lambda item: _rank(item[0]))
    panels = [_curve(name, *curve, stage.step) for name, curve in ordered]
    if panels:
        parts.append(f'<h3>Training curves</h3><div class="curves">{"".join(panels[:_MOST_CURVES])}</div>')
    if more := panels[_MOST_CURVES:]:
        parts.append(
            f"<details><summary>{len(more)} more curves</summary>"
            f'<div class="curves">{"".join(more)}</div></details>'
        )
    parts.append(_pictures(stage))
    return "".join(parts)


def _state(stage: StageFiles) -> str:
    if not stage.step and stage.checkpoint is None:
        return _missing("This stage has not begun.")
    words = [f"trained: {stage.step:,} steps" if stage.trained else f"at step {_progress(stage)}"]
    if stage.seconds is not None:
        words.append(f"{_duration(stage.seconds)} with its evaluation")
    words.append("no checkpoint yet" if stage.checkpoint is None else f"checkpoint {stage.checkpoint:,}")
    text = f"<p>{_text(', '.join(words))}</p>"
    if not stage.trained and stage.total:
        text += (
            f'<div class="bar"><i style="width:{min(100 * stage.step / stage.total, 100):.1f}%"></i></div>'
        )
    return text + "".join(f'<p class="faint">{_text(note)}</p>' for note in stage.notes)


def _rank(name: str) -> tuple[int, str]:
    """Losses first, then what else is measured, the optimizer last."""
    first = ("loss", "psnr")
    last = ("norm", "learning_rate")
    place = 0 if name.startswith(first) else 2 if name.startswith(last) else 1
    return place, "" if name == "loss/total" else name


def _curve(name: str, steps: Any, values: Any, last: int) -> str:
    return (
        f'<div class="curve"><div><code>{_text(name)}</code>'
        f'<span class="mono">{_number(values[-1])}</span></div>'
        f"{svg_curve(steps, values, name=name, last=last)}</div>"
    )


def _pictures(stage: StageFiles) -> str:
    newest: dict[str, FigureFile] = {}
    earlier: list[FigureFile] = []
    for figure in stage.figures:
        if figure.name in newest:
            earlier.append(figure)
        else:
            newest[figure.name] = figure
    if not newest:
        return ""
    # What a stage is about comes first, how its codes are used behind it.
    ordered = sorted(newest.values(), key=lambda figure: (figure.name == "codes", figure.name))
    text = f'<h3>Pictures</h3><div class="pictures">{"".join(map(_picture, ordered))}</div>'
    if earlier:
        shown: list[FigureFile] = []
        for name in newest:
            shown += _spread([figure for figure in earlier if figure.name == name], _MOST_EARLIER)
        left = f", {len(shown)} of {len(earlier)}" if len(shown) < len(earlier) else ""
        text += (
            f"<details><summary>earlier ones{left}</summary>"
            f'<div class="pictures">{"".join(map(_picture, shown))}</div></details>'
        )
    return text


def _picture(figure: FigureFile) -> str:
    data = figure.path.read_bytes()
    caption = next((text for name, text in _CAPTIONS.items() if figure.name.startswith(name)), "")
    _, guided, strength = figure.name.partition("_w")
    words = [caption or figure.name.replace("_", " ")]
    if caption and guided:
        words.append(f"guidance {strength}")
    words.append(f"step {figure.step:,}")
    label, wide = ", ".join(words), ' class="wide"' if _width(data) > _WIDE else ""
    picture = base64.b64encode(data).decode("ascii")
    return (
        f'<figure><div class="frame"><img{wide} alt="{html.escape(label)}" '
        f'src="data:image/png;base64,{picture}"></div>'
        f"<figcaption>{_text(label)}</figcaption></figure>"
    )


def _width(png: bytes) -> int:
    """Pixels, from the header; 0 of a file that is being written."""
    return struct.unpack(">I", png[16:20])[0] if len(png) >= 20 else 0


# -- settings --


def _configuration(config: Mapping[str, Any]) -> str:
    """A table per part of the configuration, in two columns."""
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    parts = {"": plain} if plain else {}
    parts |= {name: value for name, value in config.items() if isinstance(value, Mapping)}
    tables = [
        f"<section><h3>{_text(name or 'general')}</h3>{_table(_leaves(value))}</section>"
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
        f"<section><h3>source and packages</h3>{_table(rows)}</section>"
        f"<section><h3>how it was run</h3>{_table(_leaves(run))}</section></div>"
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, value) of everything in a tree of mappings."""
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        rows += _leaves(value, f"{path}.") if isinstance(value, Mapping) and value else [(path, value)]
    return rows


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(
        f'<tr><td class="key">{_text(name)}</td><td><code>{_text(_plain(value))}</code></td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>" if cells else _missing("Nothing is recorded.")


# -- words and numbers --


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _progress(stage: StageFiles) -> str:
    return f"{stage.step:,}" + (f" of {stage.total:,}" if stage.total is not None else "")


def _number(value: Any) -> str:
    value = float(value)
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def _duration(seconds: int | float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly chosen."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _missing(text: str) -> str:
    return f'<p class="absent">{_text(text)}</p>'


def _text(value: Any) -> str:
    """Escaped, and free to break behind underscores."""
    return html.escape(str(value)).replace("_", "_<wbr>")
