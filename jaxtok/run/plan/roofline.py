"""The least time that a program can take on a chip: arithmetic, main memory and links, each at its peak."""

import dataclasses

from jaxtok.run.plan.chips import Chip
from jaxtok.run.plan.costs import Costs


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds in seconds, as if the other two took no time.

    Attributes:
      compute: arithmetic at the peak of bfloat16.
      memory: bytes to and from main memory at its bandwidth.
      links: bytes sent to other chips with all links busy.
    """

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The largest bound."""
        return max(self.compute, self.memory, self.links)

    @property
    def limit(self) -> str:
        """Which one it is."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def roofline(costs: Costs, chip: Chip) -> Roofline:
    """Bounds of a program on one chip."""
    wire = sum(collective.wire_bytes for collective in costs.collectives.values())
    return Roofline(costs.passes / chip.flops, costs.bytes / chip.bandwidth, wire / chip.link)


def utilisation(model_flops: float, chips: int, bounds: Roofline, chip: Chip) -> float:
    """The ceiling of model FLOP utilisation: what the model needs over what the chips could do meanwhile."""
    return model_flops / (chips * bounds.seconds * chip.flops) if bounds.seconds else 0.0
