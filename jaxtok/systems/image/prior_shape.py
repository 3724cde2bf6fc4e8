"""Size of the transformers that are priors of image systems."""

import dataclasses

from jaxtok.nn.transformer import Remat


@dataclasses.dataclass(frozen=True)
class PriorShape:
    """Size of a prior.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: layers per iteration of the layer scan.
    """

    layers: int = 16
    heads: int = 16
    head_dim: int = 128
    remat: Remat = "none"
    unroll: int = 1
