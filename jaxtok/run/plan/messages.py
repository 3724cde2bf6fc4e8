"""What chips send to each other: the collectives of a program."""

import dataclasses
import math
import re
from collections.abc import Mapping

from jaxtok.run.plan.hlo import Instruction, Module

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Message:
    """One collective of a program, over all its runs in a call.

    Attributes:
      kind: one of `COLLECTIVES`.
      array: dtype and shape of the largest array that it moves.
      place: where in the source it comes from.
      count: runs.
      bytes: of the whole arrays, per chip.
      wire_bytes: that a chip must send at least.
    """

    kind: str
    array: str
    place: str
    count: int
    bytes: int
    wire_bytes: float


def collectives(module: Module, devices: int) -> list[Message]:
    """All collectives; those of one kind, array and place together."""
    found: dict[tuple[str, str, str], list[Message]] = {}
    seen: set[str] = set()
    for name, times, _ in module.executed():
        body = module.computations[name]
        for instruction in body.values():
            kind = collective_kind(instruction, name)
            # An overlapped collective is written once per fusion that carries a piece of it.
            channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
            if kind is None or channel in seen:
                continue
            seen.add(channel)
            size, wire, array = transfer(kind, instruction, body, devices)
            message = Message(kind, array, module.place(instruction), times, times * size, times * wire)
            found.setdefault((kind, array, message.place), []).append(message)
    return [
        dataclasses.replace(
            group[0],
            count=sum(m.count for m in group),
            bytes=sum(m.bytes for m in group),
            wire_bytes=sum(m.wire_bytes for m in group),
        )
        for group in found.values()
    ]


def collective_kind(instruction: Instruction, computation: str) -> str | None:
    """One of `COLLECTIVES`, or None for any other instruction."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    # XLA:TPU writes a reduce-scatter as a fusion of a reduction and a slice.
    return "reduce-scatter" if "all-reduce-scatter" in computation else kind


def transfer(
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
