"""Block sizes by device kind; `codes` are bits."""

from jaxtok.kernels.blocks import Blocks

# Of 256 bits are 8 words, as many as a TPU's vectors have rows. Fewer bits take more tokens: 1 MB in all.
PALLAS_TPU = {"": Blocks(1024, 256)}
# A program packs one word.
PALLAS_GPU = {"": Blocks(128, 32)}
