"""Experiments: their verbs, claims, evaluators and work directories, and trained systems from disk.

`load`, `save_pretrained` and `from_pretrained` are here; everything else is imported from its module.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.run.pretrained import from_pretrained, load, save_pretrained

__all__ = ["from_pretrained", "load", "save_pretrained"]

__getattr__, __dir__ = attach(__name__, {name: "pretrained" for name in __all__})
