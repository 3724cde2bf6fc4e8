"""Compiling as users' programs are, for tests that compare last digits: `conftest.py` has the default tests
compiled without LLVM's optimisation.
"""

import functools

import jax

optimised = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
