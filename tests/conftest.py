"""Set-up shared by all tests.

The environment is set here, before anything imports JAX, because JAX reads it once.
"""

import fcntl
import os
from pathlib import Path

import hypothesis
import pytest

from tests.xla_options import HAS_OLD_EMITTERS, OLD_EMITTERS

ROOT = Path(__file__).parents[1]
pytest_plugins = ["tests.selection.plugin"]

# The CPU is the reference for every number in the tests. `JAX_PLATFORMS=tpu pytest -m tpu` tests a TPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight fake devices for all tests, not only for the sharded ones: the count cannot change once JAX has
# started, so the alternative is a process per sharded test. An unsharded test uses device 0 only, as fast as
# before (measured: 0.1 s more at the start, the same time for a loop of matmuls).
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# XLA's fake devices share one pool with a thread per core, and a collective blocks its thread until all
# devices have come: on two cores a step with several collectives under way deadlocks (seen on a 2 x 2 x 2
# mesh).
os.environ.setdefault("NPROC", "64")
# Most of the time goes to compiling the same toy models again, so all executables are kept. The folder is
# inside the checkout and ignored: two checkouts never share a stale one, and `git clean -dfx` forgets it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Tests compile far more than they compute, so LLVM does not optimise what they run: a quarter less time.
# Tests that compute for long are marked `optimised`; those of last digits use `tests.compiled.optimised`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if HAS_OLD_EMITTERS:
    os.environ.setdefault("XLA_FLAGS", OLD_EMITTERS)
os.environ.setdefault("MPLBACKEND", "agg")

# Compilation makes the first example slow, so there is no deadline. CI draws the same examples in every run,
# because a change that breaks nothing must not turn red; a developer's runs go on looking for new ones. The
# profile "few" is for the second Python and JAX, after all examples have passed on the first.
hypothesis.settings.register_profile("local", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True, database=None)
hypothesis.settings.register_profile("few", deadline=None, max_examples=4, derandomize=True, database=None)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local")
hypothesis.settings.load_profile(PROFILE)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked `tpu` or `gpu` where JAX's default backend is another one."""
    wanted = {mark.name for mark in item.iter_markers()} & {"tpu", "gpu"}
    if wanted:
        import jax

        if jax.default_backend() not in wanted:
            pytest.skip(f"needs {' or '.join(sorted(wanted))}, JAX runs on {jax.default_backend()}")


@pytest.fixture(autouse=True)
def _compiled_as_marked(request):
    """Tests marked `optimised`, and processes that they start, are compiled as users' programs are."""
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    from tests.compiled import with_optimisation

    with with_optimisation():
        yield


@pytest.fixture(scope="session")
def shared():
    """`shared("goldens/x.safetensors")`: a path in ../shared, beside the checkout; skips the test if absent.

    Reference tensors and data sets are too large for the repository, so a clone alone does not have them.
    """

    def path(relative: str) -> Path:
        found = ROOT.parent / "shared" / relative
        if not found.exists():
            pytest.skip(f"../shared/{relative} is not beside this checkout")
        return found

    return path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, worker_id):
    """A run of the verb `train` with the smallest model, three steps per stage: work directory and output.

    Tests only read in it. One run serves all processes of the tests: the first that needs it trains it, the
    others wait.
    """
    from tests.small_run import train_small

    base = tmp_path_factory.getbasetemp()
    workdir = (base if worker_id == "master" else base.parent) / "small_run"
    printed = workdir.with_suffix(".txt")
    with open(workdir.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            printed.write_text(train_small(workdir))
    return workdir, printed.read_text()
