"""Arithmetic of a function before any compiler sees it: the matrix products in its jaxpr, loops unrolled."""

import math
from typing import Any

_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")


def jaxpr_flops(jaxpr: Any) -> float:
    """Twice the multiplications of all matrix products and convolutions, over all devices together.

    Args:
      jaxpr: closed or open. A `while` loop whose length only the data knows counts once, of the branches of
        a conditional the largest, and a kernel (`pallas_call`) nothing.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            # Of a transposed convolution most of what the window meets are holes.
            holes = math.prod(parameters["lhs_dilation"])
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features / holes
        elif name == "cond":
            total += max(jaxpr_flops(branch) for branch in parameters["branches"])
        elif name != "pallas_call":
            times = parameters["length"] if name == "scan" else 1
            if name == "shard_map":
                times = parameters["mesh"].size
            called = (parameters.get(key) for key in _CALLED)
            inner = [body for body in called if hasattr(body, "eqns") or hasattr(body, "jaxpr")]
            total += times * sum(map(jaxpr_flops, inner))
    return total
