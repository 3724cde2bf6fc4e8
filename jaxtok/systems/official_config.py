"""Official configurations, of which no key is ignored: one that nothing reads is refused by name."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

# What official files and recordings hold beside the network: how it was trained, and what was recorded.
_BESIDE = {
    "experiment", "dataset", "optimizer", "lr_scheduler", "losses", "training", "vq_model", "batch", "sample",
    "greedy", "generate", "value_range", "layout", "image_size", "sizes", "axis_dims_rope",
    "codebook_show_usage", "forward",
}  # fmt: skip
# Dropout and the like: nothing of the weights, and of a forward pass without training.
_OF_TRAINING = re.compile(r".*(dropout|drop|drop_rate|dropout_p|drop_path)")


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
            if name in _BESIDE or _OF_TRAINING.fullmatch(name):
                continue
            if name not in self._read:
                close = difflib.get_close_matches(name, self._asked - self._values.keys(), 1)
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
