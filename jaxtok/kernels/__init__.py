"""Kernels of the quantization look-up.

Every operation has an XLA implementation that runs everywhere and never holds a score per token and code;
some have Pallas kernels beside it. `implementation=None` takes the best one for the platform that the code
will run on.
"""

from jaxtok._lazy import attach

_names = {
    "code_entropy": "code_entropy.api",
    "code_statistics": "code_statistics.api",
    "lookup": "lookup.api",
    "nearest_code": "nearest_code.api",
    "residual_codes": "residual_codes.api",
}
__getattr__, __dir__ = attach(__name__, _names)
