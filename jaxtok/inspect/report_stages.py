"""The parts of the HTML report that each stage has: results, curves and pictures."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtok.evaluate.headlines import is_headline
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect.html_page import picture
from jaxtok.inspect.report_words import duration, leaves, missing, number, progress, spread, text
from jaxtok.inspect.run_folder import FigureFile, StageFiles
from jaxtok.inspect.svg import svg_curve

_MOST_CURVES = 9  # shown at once; the others are one click away
_MOST_EARLIER = 4
_WIDE = 900  # pixels from which a picture scrolls on a phone
_PNG_END = b"IEND\xaeB`\x82"

_CAPTIONS = {
    "reconstructions": "Held-out images, their reconstructions and maps of the absolute error",
    "codes": "How the alphabet is used by held-out images",
    "samples": "Samples, one row per caption or class",
    "prefixes": "Images drawn from the first tokens only",
}


def results_table(stage: StageFiles) -> str:
    """What was measured of a stage, with protocols if it was measured with them; nothing if it was not."""
    if stage.results:
        return _measured(stage.name, stage.results)
    rows = "".join(
        f"<tr><td><code>{text(name)}</code></td>"
        f'<td class="value">{number(values[-1])}<div class="protocol">step {steps[-1]:,}</div></td></tr>'
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
            f"<tr{' class=main' * is_headline(result.name)}><td><code>{text(result.name)}</code>"
            f'<div class="protocol">{text(_protocol(own))}</div></td>'
            f'<td class="value">{number(result.value)}</td></tr>'
        )
    return _card(name, f"All: {_protocol(shared)}" if shared else "", "".join(rows))


def _card(name: str, note: str, rows: str) -> str:
    note = f'<p class="protocol">{text(note)}</p>' if note else ""
    return f'<div class="card"><h3>{text(name)}</h3>{note}<table>{rows}</table></div>'


def _protocol(entries: Mapping[str, Any]) -> str:
    return " · ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in leaves(entries)
    )


def stage_section(stage: StageFiles, place: int) -> str:
    """How far a stage is, its curves and its pictures; `place` is its number in the page."""
    parts = [f'<h2 id="stage-{place}" style="font-size:18px">{text(stage.name)}</h2>', _state(stage)]
    evaluated = {f"eval/{k}": curve for k, curve in stage.evaluated.items() if len(set(curve[1])) > 1}
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
        return missing("This stage has not begun.")
    words = [f"trained: {stage.step:,} steps" if stage.trained else f"at step {progress(stage)}"]
    if stage.seconds is not None:
        words.append(f"{duration(stage.seconds)} with its evaluation")
    words.append("no checkpoint yet" if stage.checkpoint is None else f"checkpoint {stage.checkpoint:,}")
    lines = f"<p>{text(', '.join(words))}</p>"
    if not stage.trained and stage.total:
        lines += (
            f'<div class="bar"><i style="width:{min(100 * stage.step / stage.total, 100):.1f}%"></i></div>'
        )
    return lines + "".join(f'<p class="faint">{text(note)}</p>' for note in stage.notes)


def _rank(name: str) -> tuple[int, str]:
    """Losses first, then what else is measured, the optimizer last."""
    first = ("loss", "psnr")
    last = ("norm", "learning_rate")
    place = 0 if name.startswith(first) else 2 if name.startswith(last) else 1
    return place, "" if name == "loss/total" else name


def _curve(name: str, steps: Any, values: Any, last: int) -> str:
    return (
        f'<div class="curve"><div><code>{text(name)}</code>'
        f'<span class="mono">{number(values[-1])}</span></div>'
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
    page = f'<h3>Pictures</h3><div class="pictures">{"".join(map(_picture, ordered))}</div>'
    if earlier:
        shown: list[FigureFile] = []
        for name in newest:
            shown += spread([figure for figure in earlier if figure.name == name], _MOST_EARLIER)
        left = f", {len(shown)} of {len(earlier)}" if len(shown) < len(earlier) else ""
        page += (
            f"<details><summary>earlier ones{left}</summary>"
            f'<div class="pictures">{"".join(map(_picture, shown))}</div></details>'
        )
    return page


def _picture(figure: FigureFile) -> str:
    data = figure.path.read_bytes()
    caption = next((words for name, words in _CAPTIONS.items() if figure.name.startswith(name)), "")
    _, guided, strength = figure.name.partition("_w")
    words = [caption or figure.name.replace("_", " ")]
    if caption and guided:
        words.append(f"guidance {strength}")
    words.append(f"step {figure.step:,}")
    label = ", ".join(words)
    if not data.endswith(_PNG_END):
        return missing(f"{label}: the file is not whole; the run may be writing it.")
    return picture(data, label, wide=struct.unpack(">I", data[16:20])[0] > _WIDE)  # of the header
