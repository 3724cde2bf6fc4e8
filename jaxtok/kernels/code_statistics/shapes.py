"""Block sizes by device kind. Wider features than a block's are added up in slices."""

from jaxtok.kernels.blocks import Blocks

PALLAS_TPU = {"": Blocks(512, 512, width=512)}
PALLAS_GPU = {"": Blocks(64, 64, width=64)}
