"""Block sizes by device kind. Wider features than a block's take one look-up per depth."""

from jaxtok.kernels.blocks import Blocks

# On a TPU the residual of a tile exists five times (read, kept, written, each but one double buffered).
PALLAS_TPU = {"": Blocks(512, 512, width=512)}
# On a GPU the residual of a tile is held in registers.
PALLAS_GPU = {"": Blocks(32, 64, width=256)}
