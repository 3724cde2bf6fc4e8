"""Writes any source as ArrayRecord shards, the fastest format for shuffled reading.

python -m jaxtok.data.pack --source folder --path my/images --channels 3 --held-out 0 --output packed

Images keep their encoded bytes; decoded ones become PNG. `--held-out 0` packs all records, otherwise those
of `--split`.
"""

from pathlib import Path

import tyro

from jaxtok.data.arrayrecord import write_shards
from jaxtok.data.config import Data, Split
from jaxtok.data.sources import open_source


def main(
    data: tyro.conf.OmitArgPrefixes[Data],
    output: Path,
    split: Split = "train",
    records_per_shard: int = 10_000,
) -> None:
    """Packs a split and prints each shard when it is complete.

    Args:
      data: What to read.
      output: Folder for the shards; must not hold any.
      split: "train" or "eval".
      records_per_shard: Records in each shard but the last.
    """
    try:
        source = open_source(data, split)
        if source.content != "image":
            raise ValueError(
                f"source {data.source!r} holds no images; the verb `encode` wrote its shards already"
            )
        for file in write_shards(source, output, records_per_shard):
            print(file)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
