"""What an objective returns: one number to minimise and everything that should be seen or summed beside "
"it."""

from typing import Any

from jaxtok.codes import pytree_dataclass


@pytree_dataclass()
class Terms:
    """The outcome of an objective on a batch or micro-batch.

    Attributes:
      total: float32 scalar to minimise; a mean over examples, so that micro-batches average.
      metrics: named scalars, means over examples; a name such as `loss/bits` is a group and a name.
      statistics: named sums for the quantizer's `update`, added up over micro-batches and the mesh.
      outputs: arrays for a builder, such as "real" and "fake" images for a discriminator; not kept.
    """

    total: Any
    metrics: Any
    statistics: Any
    outputs: Any
