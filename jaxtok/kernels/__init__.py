"""Kernels of the quantization look-up.

Every operation has an XLA implementation that runs everywhere and never holds a score per token and code;
some have Pallas kernels beside it. `implementation=None` takes the best one for the platform that the code
will run on.
"""

# Imported at once, because the functions have the names of their folders: a lazy name would lose against the
# folder as soon as anybody imported something from it.
from jaxtok.kernels.binary_codes.api import binary_codes
from jaxtok.kernels.code_entropy.api import code_entropy
from jaxtok.kernels.code_statistics.api import code_statistics
from jaxtok.kernels.lookup.api import lookup
from jaxtok.kernels.nearest_code.api import nearest_code
from jaxtok.kernels.residual_codes.api import residual_codes

__all__ = ["binary_codes", "code_entropy", "code_statistics", "lookup", "nearest_code", "residual_codes"]
