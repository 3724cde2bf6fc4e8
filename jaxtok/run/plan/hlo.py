"""Reads the text of a compiled program (HLO): its computations, how often each runs, and its source lines."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

from jaxtok.run.plan.sources import scope_of, short_path, source_lines

_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """One array that an instruction gives.

    Attributes:
      dtype: as HLO spells it.
      dims: its shape.
      space: 0 for main memory; others are scratch memory on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Size without padding."""
        bits = re.search(r"\d+", self.dtype)  # f32, bf16, f8e4m3fn, c64; pred has none
        return math.prod(self.dims) * (int(bits.group()) if bits else 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: as written.
      arrays: what it gives; several for a tuple.
      operands: names in the same computation.
      attributes: the rest of the line.
      root: whether the computation gives this.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs."""
        found = _CALLED.findall(self.attributes)
        return tuple(name for group in found for name in _NAME.findall(group))

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes."""
        match = re.search(pattern, self.attributes)
        return match and match.group(1)

    @property
    def bytes(self) -> int:
        """Size of all that it gives."""
        return sum(array.bytes for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: instructions by name, in order, of each computation.
      entry: name of the computation that runs.
      lines: "file:line" of this library by stack frame id.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str
    lines: Mapping[int, str]

    def executed(self) -> Iterator[tuple[str, int, bool]]:
        """Every computation that runs, how often, and whether it is part of a fusion.

        A computation that runs in several places comes several times. Of the branches of a conditional, all
        are counted.
        """
        stack = [(self.entry, 1, False)]
        while stack:
            name, times, fused = stack.pop()
            yield name, times, fused
            for instruction in self.computations[name].values():
                # Reducers and comparators run once per element and hold no matrix products.
                if instruction.opcode in ("fusion", "call", "conditional", "while", "async-start"):
                    own = self.trips(instruction) if instruction.opcode == "while" else 1
                    inside = fused or instruction.opcode == "fusion"
                    stack += [(called, times * own, inside) for called in instruction.called]

    def trips(self, loop: Instruction) -> int:
        """How often a `while` runs: as the compiler noted, or the constant its counter is compared to."""
        noted = loop.attribute(r'known_trip_count"?:\{"?n"?:"?(\d+)')
        if noted:
            return int(noted)
        condition = self.computations[loop.attribute(r"condition=%([\w.\-]+)") or ""]
        root = next(instruction for instruction in condition.values() if instruction.root)
        counters = [
            condition[name] for name in root.operands if condition[name].opcode == "get-tuple-element"
        ]
        limits = [_value(condition[name]) for name in root.operands if condition[name].opcode == "constant"]
        if not limits or not counters:  # a comparison inside a fusion; its constant stands outside
            limits = [
                _value(c) for c in condition.values() if c.opcode == "constant" and not c.arrays[0].dims
            ]
            return max(limits, default=1)
        body = self.computations[loop.attribute(r"body=%([\w.\-]+)") or ""]
        number = int(counters[0].attribute(r"index=(\d+)") or 0)
        return -(-limits[0] // max(1, _growth(body, number)))

    def place(self, instruction: Instruction) -> str:
        """Where an instruction comes from: "file:line (module path)", as far as it is known."""
        source = instruction
        for name in instruction.called if 'op_name="' not in instruction.attributes else ():
            named = [i for i in self.computations[name].values() if 'op_name="' in i.attributes]
            source = named[-1] if named else source
        scope = scope_of(source.attribute(r'op_name="([^"]*)"') or "")
        frame = source.attribute(r"stack_frame_id=(\d+)")
        line = self.lines.get(int(frame), "") if frame else ""
        if file := source.attribute(r'source_file="([^"]*)"'):
            number = source.attribute(r"source_line=(\d+)")
            line = f"{short_path(file)}:{number}"
        return f"{line} ({scope})" if line and scope else line or scope


def _value(constant: Instruction) -> int:
    return int(constant.attribute(r"^(-?\d+)\)") or 1)


def _growth(body: Mapping[str, Instruction], number: int) -> int:
    """By how much a loop's body raises an element of its state; loops may be unrolled."""
    root = next(instruction for instruction in body.values() if instruction.root)
    current, total = body[root.operands[number]], 0
    while current.opcode in ("add", "copy", "bitcast"):
        operands = [body[name] for name in current.operands]
        constants = [operand for operand in operands if operand.opcode == "constant"]
        others = [operand for operand in operands if operand.opcode != "constant"]
        total += sum(map(_value, constants))
        if len(others) != 1:
            break
        current = others[0]
    return total


def parse(text: str) -> Module:
    """Reads what `compiled.as_text()` gives."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line and not line[0].isspace():
            match = _COMPUTATION.match(line)
            current = computations.setdefault(match.group(2), {}) if match and "->" in line else None
            entry = match.group(2) if match and match.group(1) else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(line[match.end() :], match.group(2), bool(match.group(1)))
            current[instruction.name] = instruction
    return Module(computations, entry, source_lines(text))


def _instruction(rest: str, name: str, root: bool) -> Instruction:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 2
    # The value of a constant, and the number of a parameter, stand where operands do.
    attributes = rest if opcode in ("constant", "parameter") else rest[end + 1 :]
    return Instruction(name, opcode, _arrays(shape), tuple(_NAME.findall(rest[:end])), attributes, root)


def _arrays(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _space(layout: str) -> int:
    match = re.search(r"S\((\d+)\)", layout)
    return int(match.group(1)) if match else 0


def _closing(text: str) -> int:
    """Index after the parenthesis that closes the first one."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return index + 1
    return len(text)
