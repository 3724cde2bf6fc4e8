"""Looks at data before training: prints ten decoded records of a split.

python -m jaxtok.data.check folder --path my/images --channels 3
"""

import dataclasses

import numpy as np

from jaxtok.data.command import main
from jaxtok.data.dataset import Dataset, Split
from jaxtok.data.errors import BadRecord

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """What is shown."""

    split: Split = "train"
    """Which split."""


def describe(data: Dataset, split: Split) -> str:
    """A line about the split and a line per record for ten records spread over it.

    Raises:
      ValueError: See `Dataset.open`.
    """
    source = data.open(split)
    classes = f", classes: {', '.join(source.classes)}" if source.classes else ""
    lines = [f"{len(source)} records in split {split!r}{classes}"]
    for index in np.unique(np.linspace(0, len(source) - 1, _SHOWN).astype(int)).tolist():
        try:
            record = source[index]
        except BadRecord as error:
            lines.append(f"{index:>8}  cannot be decoded: {error}")
            continue
        arrays = "  ".join(_described(value) for value in record.values() if isinstance(value, np.ndarray))
        label, caption = record.get("label", -1), record.get("caption", "")
        lines.append(f"{index:>8}  {arrays}  label {label:>3}  {caption!r}  {record['key']}")
    return "\n".join(lines)


def _described(array: np.ndarray) -> str:
    shape = "x".join(map(str, array.shape))
    return f"{shape:<12} {array.dtype} [{array.min():>3}, {array.max():>3}]"


def run(data: Dataset, options: Options) -> None:
    """Prints ten decoded records."""
    print(describe(data, options.split))


if __name__ == "__main__":
    main(run, "Prints ten decoded records: shape, type, range, label, caption, key.", Options)
