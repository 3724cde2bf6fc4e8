"""Block sizes by device kind, measured where a number is given, otherwise bounded by on-chip memory.

Wider features than a block's are multiplied in slices and summed up.
"""

from jaxtok.kernels.blocks import Blocks

# CPU, one core of a shared server, N=16,384, K=8,192, D=8/64/256, best of 3 to 5: 8.5-9.6/3.8-4.5/1.9-2.4
# times as fast as plain torch matmul + argmax in four runs; the products alone take 26/72/94 % of the time.
# A tile of 2 MB stays in the cache. Minima per lane over 512x256 were 1.14/0.99/0.91 times as fast as this.
XLA = {"cpu": Blocks(512, 1024), "": Blocks(8192, 4096)}
# A tile of scores, two of codes and one of tokens fit the vector memory.
PALLAS_TPU = {"": Blocks(512, 512, width=1024)}
# Slices of features fit the registers.
PALLAS_GPU = {"": Blocks(64, 64, width=64)}
