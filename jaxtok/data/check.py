"""Looks at data before training: prints ten decoded records of a split.

python -m jaxtok.data.check --source folder --path my/images --channels 3
"""

import numpy as np
import tyro

from jaxtok.data.config import Data, Split
from jaxtok.data.errors import BadRecord
from jaxtok.data.sources import open_source

_SHOWN = 10


def describe(data: Data, split: Split) -> str:
    """A line about the split and a line per record for ten records spread over it.

    Raises:
      ValueError: See `open_source`.
    """
    source = open_source(data, split)
    classes = f", classes: {', '.join(source.classes)}" if source.classes else ""
    lines = [f"{len(source)} records in split {split!r}{classes}"]
    for index in np.unique(np.linspace(0, len(source) - 1, _SHOWN).astype(int)).tolist():
        try:
            record = source[index]
        except BadRecord as error:
            lines.append(f"{index:>8}  cannot be decoded: {error}")
            continue
        content = source.stack([record[source.content]])[0]
        lines.append(
            f"{index:>8}  {'x'.join(map(str, content.shape)):<12} {content.dtype} "
            f"[{content.min():>3}, {content.max():>3}]  "
            f"label {record['label']:>3}  {record['caption']!r}  {record['key']}"
        )
    return "\n".join(lines)


def main(data: tyro.conf.OmitArgPrefixes[Data], split: Split = "train") -> None:
    """Prints ten decoded records: shape, type, range, label, caption, key."""
    try:
        print(describe(data, split))
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
