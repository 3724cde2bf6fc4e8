"""What a compiled program does on one chip: arithmetic, memory traffic, collectives, large temporaries.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, so a scanned stack looks as
cheap as one layer. Everything here is multiplied by the trip counts of the loops around it.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from jaxtok.run.plan.hlo import Instruction, Module
from jaxtok.run.plan.messages import COLLECTIVES, Message, collectives
from jaxtok.run.plan.traffic import FREE, MOVES, traffic_bytes

# Of float32 products at higher precision, in passes of the bfloat16 unit.
_PASSES = {"high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All runs of one kind of collective.

    Attributes:
      count: how many of them a call runs.
      bytes: of the whole arrays, per chip.
      wire_bytes: that a chip must send at least.
    """

    count: int
    bytes: int
    wire_bytes: float


@dataclasses.dataclass(frozen=True)
class Temporary:
    """A result in main memory.

    Attributes:
      array: dtype and shape.
      place: where in the source it comes from.
      bytes: its size.
    """

    array: str
    place: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one call, on one chip.

    Attributes:
      flops: of matrix products and convolutions.
      passes: the same, products of higher precision counted as often as the bfloat16 unit runs for them.
      bytes: read from and written to main memory; an estimate from the shapes around each fusion.
      collectives: by kind.
      messages: the collectives with the most bytes.
      largest: the largest temporaries.
      opaque: number of custom calls (kernels), whose arithmetic the text does not state.
    """

    flops: float
    passes: float
    bytes: float
    collectives: Mapping[str, Collective]
    messages: tuple[Message, ...]
    largest: tuple[Temporary, ...]
    opaque: int


def costs(module: Module, devices: int, rows: int = 8) -> Costs:
    """Counts everything.

    Args:
      module: the program, as one of `devices` chips runs it.
      devices: how many chips there are.
      rows: how many of the largest temporaries and collectives to keep.
    """
    flops = passes = traffic = 0.0
    opaque = 0
    for name, times, fused in module.executed():
        body = module.computations[name]
        for instruction in body.values():
            work = times * product_flops(instruction, body)
            flops += work
            passes += work * _precision(instruction)
            if not fused:
                traffic += times * traffic_bytes(instruction, body, module)
                opaque += times * ("tpu_custom_call" in instruction.attributes)
    messages = sorted(collectives(module, devices), key=lambda message: -message.bytes)
    return Costs(
        flops,
        passes,
        traffic,
        {kind: _total(messages, kind) for kind in COLLECTIVES if any(m.kind == kind for m in messages)},
        tuple(messages[:rows]),
        tuple(_largest(module)[:rows]),
        opaque,
    )


def _total(messages: list[Message], kind: str) -> Collective:
    own = [message for message in messages if message.kind == kind]
    return Collective(sum(m.count for m in own), sum(m.bytes for m in own), sum(m.wire_bytes for m in own))


def _largest(module: Module) -> list[Temporary]:
    found: dict[tuple[str, str], int] = {}
    for name, _, fused in module.executed():
        for instruction in module.computations[name].values() if not fused else ():
            if instruction.opcode in FREE | MOVES:
                continue
            for array in instruction.arrays:
                if array.space == 0:
                    place = (str(array), module.place(instruction))
                    found[place] = max(found.get(place, 0), array.bytes)
    return [Temporary(*key, size) for key, size in sorted(found.items(), key=lambda item: -item[1])]


def product_flops(instruction: Instruction, body: Mapping[str, Instruction]) -> float:
    """Twice the multiplications of a matrix product or convolution that do not meet padding; else 0."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (body[name].arrays[0].dims for name in instruction.operands[:2])
    out = instruction.arrays[0].dims
    if instruction.opcode == "dot":
        contracted = _integers(instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    labels = instruction.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)") or ""
    source, kernel, target = re.split("_|->", labels)
    total = 2.0 * left[source.index("b")] * right[kernel.index("i")] * right[kernel.index("o")]
    total /= int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    for axis in (c for c in source if c.isdigit()):
        sizes = (left[source.index(axis)], right[kernel.index(axis)], out[target.index(axis)])
        total *= _meetings(*sizes, *_window(instruction, int(axis)))
    return total


def _meetings(size: int, kernel: int, out: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """How many pairs of kernel and output positions of one axis touch an element of the input.

    XLA:TPU writes batched products as convolutions whose windows mostly meet holes.
    """
    position = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * spread - pad
    return int(np.sum((position % dilate == 0) & (position >= 0) & (position // dilate < size)))


def _window(instruction: Instruction, axis: int) -> tuple[int, int, int, int]:
    """Stride, low padding, dilation of the input and of the kernel."""
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(field.split("=") for field in window.split())

    def value(name: str, default: int) -> int:
        text = fields.get(name)
        return int(text.split("x")[axis].split("_")[0]) if text else default

    return value("stride", 1), value("pad", 0), value("lhs_dilate", 1), value("rhs_dilate", 1)


def _precision(instruction: Instruction) -> int:
    precision = instruction.attribute(r"operand_precision=\{(\w+)") or ""
    return _PASSES.get(precision, 1)


def _integers(text: str | None) -> list[int]:
    return [int(number) for number in (text or "").split(",") if number]
