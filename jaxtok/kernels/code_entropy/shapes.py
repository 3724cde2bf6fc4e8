"""Block sizes by device kind. The XLA implementation has those of `nearest_code`: its tiles are the same."""

from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.nearest_code.shapes import XLA

__all__ = ["PALLAS_GPU", "PALLAS_TPU", "XLA"]

# Of a gradient's tile some five exist at a time. Wider features go to XLA: a block of them would leave no
# room for tiles.
PALLAS_TPU = {"": Blocks(512, 512, width=1024)}
# The gradient of a block of either side is held in registers.
PALLAS_GPU = {"": Blocks(32, 64, width=256)}
