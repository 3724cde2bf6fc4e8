"""Block sizes by device kind, and up to which size of a codebook the kernel is taken.

Wider features than a block's are looked up in slices.
"""

from jaxtok.kernels.blocks import Blocks

PALLAS_TPU = {"": Blocks(512, 512, width=256)}
# Values are held in registers; codes are gathered, not compared.
PALLAS_GPU = {"": Blocks(64, 0, width=64)}
# XLA's compiler estimates 0.46 to 0.49 ms for its gather on a v5e (65,536 tokens, 8 or 64 features, up to
# 8,192 codes: it reads row after row), whatever the codebook. The kernel multiplies every token with every
# code: at the peak of that chip's matrix units 0.13 ms for each 1,024 codes. Nobody has timed either.
MOST_CODES = {"": 1024}
