"""The dtype of computation. Parameters, norms, softmax, quantizers and losses are float32 whatever it is."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(precision: Precision) -> Any:
    """float32 or bfloat16; "auto" is bfloat16 on accelerators and float32 on CPU, which emulates bfloat16
    slowly.

    Raises:
      ValueError: another name.
    """
    if precision == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r}; choose 'auto', 'float32' or 'bfloat16'")
    return jnp.dtype(precision)
