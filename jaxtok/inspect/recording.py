"""What happens inside a call: arrays of chosen module calls, of any model, compiled or not."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

_NUMBERS = itertools.count()
Take = Callable[[Any, tuple, dict[str, Any], Any], Any]


def record_calls(
    call: Callable[[], Any], kind: type[nn.Module], method: str, take: Take
) -> tuple[Any, list[tuple[str, Any]]]:
    """Runs a call and records something of every call of a module's method in it, inside loops too.

    Models and their compiled functions stay as they are: functions that the call has compiled before are
    compiled once more, with what is taken beside them.

    Args:
      call: takes nothing; it computes on one device.
      kind: class of the modules.
      method: name of the method, such as "__call__".
      take: `(module, arguments, keyword arguments, output) -> tree of arrays` to keep.

    Returns:
      What the call returned; and in the order of the calls the path of the module ("encoder/stack_0") and
      what was taken, as NumPy arrays.
    """
    kept: list[tuple[str, Any]] = []

    def record(next_fun, args, kwargs, context):
        out, module = next_fun(*args, **kwargs), context.module
        if isinstance(module, kind) and context.method_name == method:
            name = "/".join(module.path)

            def keep(tree):
                kept.append((name, jax.tree.map(np.asarray, tree)))
                return np.float32(0)

            # What follows needs the zero, so that records come in the order of the computation. An effect in
            # its place would not be allowed in scanned layers.
            taken = take(module, args, kwargs, out)
            zero = jax.pure_callback(keep, jax.ShapeDtypeStruct((), np.float32), taken)
            first, *rest = jax.tree.leaves(out)
            out = jax.tree.unflatten(jax.tree.structure(out), [first + zero.astype(first.dtype), *rest])
        return out

    # A remark that no other call has: functions that were traced without it, and without the interceptor, are
    # traced again under it.
    remark = set_xla_metadata(jaxtok_recording=str(next(_NUMBERS)))
    with remark, nn.intercept_methods(record):
        result = jax.block_until_ready(call())
    return result, kept
