"""Renamed names, so that configurations, checkpoints and token files of earlier versions still load.

Everything that reads a stored name asks here; nothing is written under an old one.
"""

import re
from collections.abc import Mapping
from typing import Any

# Class -> old field -> today's field.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "Config": {"judge": "scorer", "adversary": "discriminator"},
    "TokenizerWeights": {"pixels": "reconstruction", "pixel_weight": "reconstruction_weight"},
    "Manifest": {"crops": "augmentations"},
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


def current_path(path: str) -> str:
    """Today's path of a stored leaf."""
    for old, new in PATHS:
        path = old.sub(new, path)
    return path
