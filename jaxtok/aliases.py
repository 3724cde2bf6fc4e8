"""Renamed names, so that configurations, checkpoints and token files of earlier versions still load.

Everything that reads a stored name asks here; nothing is written under an old one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Class -> old field -> today's field.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "Config": {"judge": "scorer", "adversary": "discriminator"},
    "TokenizerWeights": {"pixels": "reconstruction", "pixel_weight": "reconstruction_weight"},
    "Manifest": {"crops": "augmentations"},
}

# Fields that `jaxtok.data.Data` had for every source, when it was one class.
_OF_ALL_SOURCES = (
    *(
        "path",
        "eval_path",
        "held_out",
        "image_column",
        "label_column",
        "caption_column",
        "white",
        "max_pixels",
    ),
)
_OF_SOURCE = {
    **dict.fromkeys(("digits", "photos", "shapes"), ()),
    **dict.fromkeys(
        ("folder", "webdataset", "arrayrecord", "numpy"),
        ("path", "eval_path", "held_out", "white", "max_pixels"),
    ),
    "parquet": _OF_ALL_SOURCES,
}

# Paths of the leaves of a state or of variables, "collection/module/name": what is replaced, and by what.
PATHS: tuple[tuple[re.Pattern[str], str], ...] = ((re.compile(r"^adversary(?=/)"), "discriminator"),)


def current_fields(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields of a class under today's names.

    Raises:
      ValueError: a field is there under both names.
    """
    renamed = FIELDS.get(kind, {})
    if twice := [f"{old} and {new}" for old, new in renamed.items() if old in values and new in values]:
        raise ValueError(f"{kind} has {', '.join(twice)}, two names of one field; remove the first")
    return {renamed.get(name, name): value for name, value in values.items()}


def current_kind(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that has kinds, with its "type".

    Until December 2026 a data set was one class whose field "source" said what is read; it had the fields of
    all sources, of which those of the others were without effect.
    """
    if values.get("source") not in _OF_SOURCE or "type" in values:
        return dict(values)
    source = values["source"]
    unread = {"source", *_OF_ALL_SOURCES} - set(_OF_SOURCE[source])
    return {"type": source} | {name: value for name, value in values.items() if name not in unread}


def kind_flags(arguments: Sequence[str]) -> list[str]:
    """Arguments with `--data.source folder`, as it was said until December 2026, as `--data:folder`."""
    words, given = [], iter(arguments)
    for word in given:
        flag, equals, value = word.partition("=")
        words.append(f"--data:{value if equals else next(given, '')}" if flag == "--data.source" else word)
    return words


def current_path(path: str) -> str:
    """Today's path of a stored leaf."""
    for old, new in PATHS:
        path = old.sub(new, path)
    return path
