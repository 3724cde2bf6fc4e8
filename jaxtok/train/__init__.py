"""The shared train loop and what it stands on: stages, sharding, checkpoints, schedules, writers.

`load`, `save_pretrained` and `from_pretrained` are here; everything else is imported from its module.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.train.pretrained import from_pretrained, load, save_pretrained

__all__ = ["from_pretrained", "load", "save_pretrained"]

__getattr__, __dir__ = attach(__name__, {name: "pretrained" for name in __all__})
