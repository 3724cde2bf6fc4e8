"""Compiling as users' programs are: `conftest.py` has tests compiled without LLVM's optimisation."""

import contextlib
import functools
import os
from collections.abc import Iterator

import jax

from tests.xla_options import HAS_OLD_EMITTERS

_OPTION = "jax_disable_most_optimizations"

# For tests that compare last digits.
_AS_USERS = {"xla_backend_optimization_level": 3}
_AS_USERS |= {"xla_cpu_use_fusion_emitters": True} if HAS_OLD_EMITTERS else {}
optimised = functools.partial(jax.jit, compiler_options=_AS_USERS)


@contextlib.contextmanager
def with_optimisation() -> Iterator[None]:
    """Whatever is compiled inside, also by processes that start inside, is optimised.

    The mark `optimised` does this around a test; a fixture of wider scope that trains does it itself. In
    processes programs are compiled as users' are; in this one XLA's emitters stay those of `conftest.py`,
    because it reads its flags once.
    """
    before = jax.config.read(_OPTION)  # pyright: ignore[reportAttributeAccessIssue]
    names = (_OPTION.upper(), "XLA_FLAGS")
    variables = {name: os.environ.pop(name) for name in names if name in os.environ}
    jax.config.update(_OPTION, False)
    try:
        yield
    finally:
        jax.config.update(_OPTION, before)
        os.environ.update(variables)
