"""Official configurations, of which no key is ignored: one that nothing reads is refused by name."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

# What recordings of official models hold beside the arguments of the network.
_RECORDED = {"batch", "sample", "greedy", "generate", "value_range", "layout", "forward"}
# Sections of a run's configuration that say how a network was trained, for `set_aside`.
OF_A_RUN = ("experiment", "dataset", "optimizer", "lr_scheduler", "losses", "training")
# Dropout and the like: nothing of the weights, and of a forward pass without training.
_OF_TRAINING = re.compile(r"(\w+_)?(dropout(_p)?|drop(_path)?(_rate)?)")


class OfficialConfig(Mapping[str, Any]):
    """A mapping that remembers which of its keys, and of those of the mappings in it, were read.

    Args:
      values: the official configuration.
    """

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)
        self._inner = {name: OfficialConfig(v) for name, v in self._values.items() if isinstance(v, Mapping)}
        self._read: set[str] = set()
        self._asked: set[str] = set()  # also for what is not there

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        value = self._values[name]
        self._read.add(name)
        return self._inner.get(name, value)

    def __contains__(self, name: object) -> bool:
        self._asked.add(str(name))
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unread(self, prefix: str = "") -> list[str]:
        """Dotted names of the keys that nothing has read, with what may have been meant."""
        found = []
        for name in self._values:
            if name in _RECORDED:
                continue
            if name not in self._read:
                dropout, absent = _OF_TRAINING.fullmatch(name), self._asked - self._values.keys()
                close = difflib.get_close_matches(name, absent, 1, 0.85 if dropout else 0.6)
                if dropout and not close:
                    continue
                found.append(f"{prefix}{name}" + (f" (did you mean {close[0]}?)" if close else ""))
            elif name in self._inner:
                found += self._inner[name].unread(f"{prefix}{name}.")
        return found

    def refuse_unread(self, system: str) -> None:
        """Raises a ValueError that names the keys that nothing has read."""
        if unread := self.unread():
            raise ValueError(
                f"the configuration of {system} has {', '.join(unread)}, which have no counterpart here; "
                "leave out what does not change the network, or correct the name"
            )


def set_aside(config: Mapping[str, Any], *names: str) -> None:
    """Says of keys of a configuration, and of all in them, that they change nothing in the network."""
    for name in names:
        if isinstance(inner := config.get(name), Mapping):
            set_aside(inner, *inner)


def require_same(config: Mapping[str, Any], name: str, value: Any, source: str) -> None:
    """Checks a key that says again what follows from others.

    Args:
      config: where the key may be.
      name: of the key.
      value: what it must be; a list for a list or tuple.
      source: of that, for the message.

    Raises:
      ValueError: the key is there and says something else.
    """
    said = config.get(name, value)
    if (list(said) if isinstance(said, tuple) else said) != value:
        raise ValueError(f"{name}={said} contradicts {source}, by which it is {value}; correct one of them")
