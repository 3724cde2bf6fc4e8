"""Compiles one program ahead of time and measures it."""

import contextlib
import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from jaxtok.run.plan.arithmetic import jaxpr_flops
from jaxtok.run.plan.costs import Costs, costs
from jaxtok.run.plan.devices import Topology, uncached
from jaxtok.run.plan.hlo import parse
from jaxtok.run.plan.roofline import Roofline, roofline

# Less effort than a run's, which takes six times as long (a prior of 1.3 B parameters for 256 chips: 18 and
# 124 s of processor time). The same products; memory 2 % above the run's (a tokenizer: 14 % below);
# but arrays that a run keeps on the chip pass through main memory (109 against 66 ms).
_QUICK = {"optimization_level": 9}  # O0; JAX 0.10 takes the number only, 0.12 both
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per chip.

    Attributes:
      arguments, outputs, aliased: what goes in, what comes out, and how much of it shares memory.
      temporaries: needed in between.
      code: of the program itself.
      total: all of it, shared memory once.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    total: int

    @property
    def parts(self) -> dict[str, int]:
        """What makes the total, shared memory once; of a program that was refused, only the total."""
        parts = {
            "arguments": self.arguments,
            "outputs": self.outputs - self.aliased,
            "temporaries": self.temporaries,
            "code": self.code,
        }
        return parts if sum(parts.values()) == self.total else {"refused": self.total}


@dataclasses.dataclass(frozen=True)
class Program:
    """What is known about a compiled program.

    Attributes:
      memory: per chip.
      fits: whether it is within the chip's memory.
      costs: per chip; None where the compiler gave up for lack of memory.
      bounds: of the time of a call; None likewise.
      jaxpr_flops: arithmetic as written, over all chips.
      xla_flops: what `cost_analysis` says, with every loop counted once, for comparison.
      seconds: of tracing and compilation.
      refusal: what the compiler said when it gave up.
    """

    memory: Memory
    fits: bool
    costs: Costs | None
    bounds: Roofline | None
    jaxpr_flops: float
    xla_flops: float
    seconds: float
    refusal: str = ""


def compile_program(function: Any, arguments: tuple[Any, ...], mesh: Mesh, topology: Topology) -> Program:
    """Traces and compiles a jitted function for shapes that carry their shardings.

    Args:
      function: jitted.
      arguments: pytrees of shapes.
      mesh: over devices of the topology.
      topology: what for.
    """
    start = time.monotonic()
    with jax.set_mesh(mesh), uncached() if topology.chip.tpu else contextlib.nullcontext():
        traced = function.trace(*arguments)
        written = jaxpr_flops(traced.jaxpr)
        lowered = traced.lower()
        try:
            compiled = lowered.compile(_QUICK if topology.chip.tpu and not topology.full else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _refused(str(error), written, time.monotonic() - start)
    memory = _memory(compiled.memory_analysis())
    counted = costs(parse(compiled.as_text()), mesh.size)
    analysis = compiled.cost_analysis() or {}
    return Program(
        memory,
        memory.total <= topology.chip.memory,
        counted,
        roofline(counted, topology.chip),
        written,
        float(analysis.get("flops", 0.0)),
        time.monotonic() - start,
    )


def _memory(analysis: Any) -> Memory:
    arguments, outputs = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
    aliased, temporaries = analysis.alias_size_in_bytes, analysis.temp_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    return Memory(
        arguments, outputs, aliased, temporaries, code, arguments + outputs - aliased + temporaries + code
    )


def _refused(message: str, written: float, seconds: float) -> Program:
    """The compiler names what the program would have needed when that is more than there is."""
    match = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", message)
    total = int(float(match.group(1)) * _UNITS[match.group(2)]) if match else 0
    return Program(
        Memory(0, 0, 0, 0, 0, total), False, None, None, written, 0.0, seconds, message.partition("\n\n")[0]
    )
