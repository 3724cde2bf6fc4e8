"""What a compiled program does on one chip: arithmetic, memory traffic, collectives, large temporaries.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, so a scanned stack looks as
cheap as one layer. Everything here is multiplied by the trip counts of the loops around it.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from jaxtok.train.planning.hlo import Array, Instruction, Module

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Of float32 products at higher precision, in passes of the bfloat16 unit.
_PASSES = {"high": 3, "highest": 6}
# They name, slice into place or wait for what another instruction made.
_FREE = frozenset(
    [
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
        *("copy-done", "slice-done", "async-done", "async-update", "after-all", "iota", "opt-barrier"),
        *("partition-id", "replica-id", *(f"{kind}-done" for kind in COLLECTIVES)),
    ]
)
_MOVES = frozenset(("copy-start", "slice-start"))
_SLICES = ("dynamic-slice", "slice", "gather")


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
class Costs:
    """Of one call, on one chip.

    Attributes:
      flops: of matrix products and convolutions.
      passes: the same, products of higher precision counted as often as the bfloat16 unit runs for them.
      bytes: read from and written to main memory; an estimate from the shapes around each fusion.
      collectives: by kind.
      moved: the collectives with the most bytes: (kind, array, source line, count, bytes).
      largest: the largest temporaries: (array, source line, bytes).
      opaque: number of custom calls (kernels), whose arithmetic the text does not tell.
    """

    flops: float
    passes: float
    bytes: float
    collectives: Mapping[str, Collective]
    moved: tuple[tuple[str, str, str, int, int], ...]
    largest: tuple[tuple[str, str, int], ...]
    opaque: int


def costs(module: Module, devices: int, rows: int = 8) -> Costs:
    """Counts everything.

    Args:
      module: the program, as one of `devices` chips runs it.
      devices: how many chips there are.
      rows: how many of the largest temporaries and collectives to keep.
    """
    flops = passes = traffic = 0.0
    opaque, seen = 0, set()
    moved: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    largest: dict[tuple[str, str], int] = {}
    for name, times, fused in module.executed():
        body = module.computations[name]
        for instruction in body.values():
            work = product_flops(instruction, body)
            flops += times * work
            passes += times * work * _precision(instruction)
            kind = _collective_kind(instruction, name)
            if (
                kind
                and (channel := instruction.attribute(r"channel_id=(\d+)") or instruction.name) not in seen
            ):
                # An overlapped collective is written once per fusion that carries a piece of it.
                seen.add(channel)
                size, wire, shown = _transfer(kind, instruction, body, devices)
                entry = moved[kind, shown, module.line(instruction)]
                entry[0], entry[1], entry[2] = (
                    entry[0] + times,
                    entry[1] + times * size,
                    entry[2] + times * wire,
                )
            if fused:
                continue
            traffic += times * traffic_bytes(instruction, body, module)
            opaque += times * ("tpu_custom_call" in instruction.attributes)
            if instruction.opcode not in _FREE | _MOVES:
                for array in instruction.arrays:
                    if array.space == 0:
                        place = (str(array), module.line(instruction))
                        largest[place] = max(largest.get(place, 0), array.bytes)
    kinds = {
        kind: Collective(
            *(
                type_(sum(v[i] for k, v in moved.items() if k[0] == kind))
                for i, type_ in enumerate((int, int, float))
            )
        )
        for kind in COLLECTIVES
    }
    return Costs(
        flops,
        passes,
        traffic,
        {kind: total for kind, total in kinds.items() if total.count},
        tuple(
            (*key, int(v[0]), int(v[1])) for key, v in sorted(moved.items(), key=lambda i: -i[1][1])[:rows]
        ),
        tuple((*key, size) for key, size in sorted(largest.items(), key=lambda i: -i[1])[:rows]),
        opaque,
    )


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


def traffic_bytes(instruction: Instruction, body: Mapping[str, Instruction], module: Module) -> float:
    """Bytes between main memory and the chip: operands and results, and of sliced arrays only the slices."""
    if instruction.opcode in _FREE:
        return 0
    operands = [body[name] for name in instruction.operands if name in body]
    if instruction.opcode in _MOVES:
        # The result tuple names source, destination and a semaphore; only the destination was moved.
        moved = instruction.arrays[1]
        spaces = (instruction.arrays[0].space, moved.space)
        return moved.bytes * spaces.count(0)
    inside = module.computations.get(instruction.called[0]) if instruction.opcode == "fusion" else None
    if inside is None:
        read = sum(_main(o.arrays) for o in operands)
        if instruction.opcode in _SLICES:
            read = _main(instruction.arrays)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * _main(operands[1].arrays)
        return read + _main(instruction.arrays)
    return _fusion_traffic(instruction, operands, inside)


def _fusion_traffic(
    instruction: Instruction, operands: list[Instruction], inside: Mapping[str, Instruction]
) -> float:
    users: dict[str, list[Instruction]] = defaultdict(list)
    root = next(i for i in inside.values() if i.root)
    for inner in inside.values():
        for name in inner.operands:
            users[name].append(inner)
    total = 0.0
    for inner in inside.values():
        if inner.opcode != "parameter":
            continue
        number = int(instruction_number(inner))
        outer = operands[number].arrays if number < len(operands) else inner.arrays
        # An array of a fusion that is only handed on, or overwritten in place, is not read.
        using = [u for u in users[inner.name] if u.opcode not in ("tuple", *COLLECTIVES)]
        if all(u.opcode in _SLICES or _in_place(u, inner.name) for u in using):
            sliced = sum(u.bytes for u in using if u.opcode in _SLICES)
            total += sliced if not outer or outer[0].space == 0 else 0
        else:
            total += _main(outer)
    results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for array, result in zip(instruction.arrays, results, strict=False):
        if array.space != 0 or result.opcode in ("parameter", *COLLECTIVES):
            continue
        update = inside[result.operands[1]].bytes if result.opcode == "dynamic-update-slice" else array.bytes
        total += update
    return total


def instruction_number(parameter: Instruction) -> str:
    """The position of a parameter."""
    return parameter.attribute(r"^(\d+)") or "0"


def _in_place(user: Instruction, name: str) -> bool:
    return (
        user.opcode == "dynamic-update-slice" and user.operands[0] == name and name not in user.operands[1:]
    )


def _main(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)


def _collective_kind(instruction: Instruction, computation: str) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    # XLA:TPU writes a reduce-scatter as a fusion of a reduction and a slice.
    return "reduce-scatter" if "all-reduce-scatter" in computation else kind


def _transfer(
    kind: str, instruction: Instruction, body: Mapping[str, Instruction], devices: int
) -> tuple[int, float, str]:
    """Bytes of the whole array, bytes that a chip sends at least, and the array."""
    arrays = [array for name in instruction.operands for array in body[name].arrays]
    size, group = sum(array.bytes for array in arrays), group_size(instruction.attributes, devices)
    share = (group - 1) / group
    largest = max(arrays, key=lambda array: array.bytes)
    if kind == "all-gather":
        whole = max(instruction.arrays, key=lambda array: array.bytes)
        return size * group, size * group * share, str(whole)
    wire = {"all-reduce": 2 * size * share, "collective-permute": float(size)}.get(kind, size * share)
    return size, wire, str(largest)


def group_size(attributes: str, devices: int) -> int:
    """How many chips one group of a collective has."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match.group(2))
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(match.group(1))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return match.group(1).count(",") + 1
    return devices


def _integers(text: str | None) -> list[int]:
    return [int(number) for number in (text or "").split(",") if number]
