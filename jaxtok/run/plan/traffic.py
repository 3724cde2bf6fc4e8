"""Bytes between main memory and a chip, estimated from the shapes around each fusion."""

from collections.abc import Mapping

from jaxtok.run.plan.hlo import Array, Instruction, Module
from jaxtok.run.plan.messages import COLLECTIVES

# They name, slice into place or wait for what another instruction made.
FREE = frozenset(
    [
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
        *("copy-done", "slice-done", "async-done", "async-update", "after-all", "iota", "opt-barrier"),
        *("partition-id", "replica-id", *(f"{kind}-done" for kind in COLLECTIVES)),
    ]
)
MOVES = frozenset(("copy-start", "slice-start"))
_SAME = frozenset(("bitcast", "get-tuple-element", "reshape"))
_SLICES = ("dynamic-slice", "slice", "gather")


def traffic_bytes(instruction: Instruction, body: Mapping[str, Instruction], module: Module) -> int:
    """Bytes between main memory and the chip: operands and results, and of sliced arrays only the slices."""
    if instruction.opcode in FREE:
        return 0
    operands = [body[name] for name in instruction.operands if name in body]
    if instruction.opcode in MOVES:
        # The result tuple names source, destination and a semaphore; only the destination was moved.
        moved = instruction.arrays[1]
        return moved.bytes * (instruction.arrays[0].space, moved.space).count(0)
    if instruction.opcode == "fusion":
        return _fusion_traffic(instruction, operands, module)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _main(operands[1].arrays)
    read = sum(_main(operand.arrays) for operand in operands)
    if instruction.opcode.endswith("-start"):
        # The result tuple names what is read as well as what is written.
        return read + max((_main((array,)) for array in instruction.arrays), default=0)
    return (_main(instruction.arrays) if instruction.opcode in _SLICES else read) + _main(instruction.arrays)


def _fusion_traffic(instruction: Instruction, operands: list[Instruction], module: Module) -> int:
    inside = module.computations[instruction.called[0]]
    total = 0
    for parameter in inside.values():
        if parameter.opcode == "parameter":
            outer = operands[int(_number(parameter) or 0)]
            if outer.arrays and outer.arrays[0].space == 0:
                total += min(_read(parameter.name, inside, module), outer.bytes)
    root = next(inner for inner in inside.values() if inner.root)
    results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for array, result in zip(instruction.arrays, results):
        if array.space == 0:
            total += _written(result, inside, module)
    return total


def _read(name: str, inside: Mapping[str, Instruction], module: Module) -> int:
    """Bytes of one array of a fusion that it reads: slices of what it slices, nothing of what it hands on."""
    total = 0
    for user in inside.values():
        if name not in user.operands:
            continue
        if user.opcode in _SLICES:
            total += user.bytes
        elif user.opcode in _SAME:
            total += _read(user.name, inside, module)
        elif user.opcode == "fusion":
            nested = module.computations[user.called[0]]
            number = str(user.operands.index(name))
            own = (i.name for i in nested.values() if i.opcode == "parameter" and _number(i) == number)
            total += sum(_read(parameter, nested, module) for parameter in own)
        elif user.opcode == "dynamic-update-slice" and name not in user.operands[1:]:
            pass  # overwritten in place
        elif user.opcode not in ("tuple", *COLLECTIVES):
            return inside[name].bytes
    return total


def _written(result: Instruction, inside: Mapping[str, Instruction], module: Module) -> int:
    """Bytes of one result of a fusion that it writes."""
    if result.opcode == "dynamic-update-slice":
        return inside[result.operands[1]].bytes
    if result.opcode in _SAME:
        return min(_written(inside[result.operands[0]], inside, module), result.bytes)
    if result.opcode == "fusion" and len(result.arrays) == 1:
        nested = module.computations[result.called[0]]
        return _written(next(inner for inner in nested.values() if inner.root), nested, module)
    return 0 if result.opcode in ("parameter", *COLLECTIVES) else result.bytes


def _number(parameter: Instruction) -> str | None:
    return parameter.attribute(r"^(\d+)")


def _main(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
