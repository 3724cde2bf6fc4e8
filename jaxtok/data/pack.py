"""Writes any images as ArrayRecord shards, the fastest format for shuffled reading.

python -m jaxtok.data.pack folder --path my/images --channels 3 --held-out 0 --output packed

Images keep their encoded bytes; decoded ones become PNG. `--held-out 0` packs all records, otherwise those
of `--split`.
"""

import dataclasses
from pathlib import Path

from jaxtok.data.arrayrecord import write_shards
from jaxtok.data.command import main
from jaxtok.data.dataset import Split
from jaxtok.data.image_data import ImageData


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written, and where."""

    output: Path
    """Folder for the shards; must not hold any."""
    split: Split = "train"
    """Which split."""
    records_per_shard: int = 10_000
    """Records in each shard but the last."""


def run(data: ImageData, options: Options) -> None:
    """Packs a split and prints each shard when it is complete."""
    for file in write_shards(data.open(options.split), options.output, options.records_per_shard):
        print(file)


if __name__ == "__main__":
    main(run, __doc__ or "", Options)
