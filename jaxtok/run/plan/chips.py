"""Published peak figures of chips, as data."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are per second; the vendors' GB are 10^9 bytes.

    Attributes:
      name: in `--topology`.
      flops: peak of bfloat16 matrix products, dense.
      memory: bytes of main memory.
      bandwidth: bytes of main memory per second.
      link: bytes that it can send to others per second, all links together, one direction.
      source: where the figures are published.
      tpu: whether XLA:TPU compiles for it here.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    source: str
    tpu: bool = True


_CLOUD = "https://docs.cloud.google.com/tpu/docs"
# The documentation gives links as the sum of both directions; a chip sends at half of that.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4",
            275e12,
            32.0 * 2**30,
            1200e9,
            300e9,
            f"{_CLOUD}/v4; links: arXiv 2304.01433, 6 x 50 GB/s each way",
        ),
        Chip("v5e", 197e12, 16.0 * 2**30, 819e9, 400e9 / 2, f"{_CLOUD}/v5e"),
        Chip("v5p", 459e12, 95.0 * 2**30, 2765e9, 1200e9 / 2, f"{_CLOUD}/v5p"),
        Chip("v6e", 918e12, 32.0 * 2**30, 1638e9, 800e9 / 2, f"{_CLOUD}/v6e"),
        Chip("h100", 989e12, 80e9, 3350e9, 900e9 / 2, "NVIDIA H100 SXM data sheet", tpu=False),
        Chip("h200", 989e12, 141e9, 4800e9, 900e9 / 2, "NVIDIA H200 data sheet", tpu=False),
        Chip("mi300x", 1307e12, 192e9, 5300e9, 896e9 / 2, "AMD Instinct MI300X data sheet", tpu=False),
    )
}
_ALIASES = {"gpu": "h100"}


def parse_topology(name: str) -> tuple[Chip, int]:
    """The chip of "v5e:16x16" or "gpu:8", and how many of them.

    Raises:
      ValueError: another spelling, or a chip without figures.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind = match and _ALIASES.get(match.group(1), match.group(1))
    if not match or kind not in CHIPS:
        raise ValueError(
            f"--topology {name!r}: give a chip and how many, such as v5e:16x16, v5p:2x2x2 or gpu:8; chips "
            f"are {', '.join((*CHIPS, *_ALIASES))}"
        )
    return CHIPS[kind], math.prod(int(side) for side in match.group(2).split("x"))
