"""Block sizes by device kind; see `jaxtok.kernels.nearest_code.shapes`."""

from jaxtok.kernels.nearest_code.shapes import Blocks

# On a TPU the residual of a tile exists five times (read, kept, written, each but one double buffered).
PALLAS_TPU = {"": Blocks(512, 512)}
# On a GPU the residual of a tile is held in registers.
PALLAS_GPU = {"": Blocks(32, 64)}
