"""Compiling as users' programs are: `conftest.py` has tests compiled without LLVM's optimisation."""

import contextlib
import functools
import os
from collections.abc import Iterator

import jax

_OPTION = "jax_disable_most_optimizations"

# For tests that compare last digits.
_AS_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
optimised = functools.partial(jax.jit, compiler_options=_AS_USERS)


@contextlib.contextmanager
def with_optimisation() -> Iterator[None]:
    """Whatever is compiled inside, also by processes that start inside, is optimised.

    The mark `optimised` does this around a test; a fixture of wider scope that trains does it itself.
    """
    before, variable = jax.config.read(_OPTION), os.environ.pop(_OPTION.upper(), None)  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update(_OPTION, False)
    try:
        yield
    finally:
        jax.config.update(_OPTION, before)
        if variable is not None:
            os.environ[_OPTION.upper()] = variable
