"""Peak memory of one side of `quantizers.py`, measured in a process of its own.

    python -m experiments.benchmarks.quantizers_memory '{"side": "vqp", "case": {"family": "vq", ...}}'

prints the growth of the resident set during one iteration: inputs, parameters and the compiled program are
there before, temporaries and outputs are counted. The peak is reset after compilation, which needs memory of
its own, and after the same computation with a few tokens, which loads libraries and starts threads.
"""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from experiments.benchmarks.quantizers_cases import FEWEST_TOKENS, Case, Side

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SMALL_CODES = 256


def build(case: Case, side: str) -> Side:
    """A side by name: "jaxtok", "vqp" or "torch". Only its own framework is imported.

    Raises:
      ValueError: there is no codebook that one could search by hand.
    """
    if side == "jaxtok":
        from experiments.benchmarks.quantizers_jax import jaxtok_side

        return jaxtok_side(case)
    from experiments.benchmarks import quantizers_torch

    return {"vqp": quantizers_torch.vqp_side, "torch": quantizers_torch.plain_side}[side](case)


def measure(case: Case, side: str, threads: int, timeout: float = 600.0) -> dict[str, int | None]:
    """Starts the process.

    Args:
      case: what to compute.
      side: who computes it.
      threads: of PyTorch; jaxtok's follow the cores that the process may use.
      timeout: seconds.

    Returns:
      "peak" bytes, and "planned" bytes of the compiled program (None for PyTorch).

    Raises:
      RuntimeError: the process failed, with what it wrote.
    """
    request = json.dumps({"side": side, "case": dataclasses.asdict(case), "threads": threads})
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "experiments.benchmarks.quantizers_memory", request]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(
            f"{case}, {side}: the process ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def peak_growth(run) -> int:
    """Bytes by which the resident set grows at its peak while a function runs."""
    try:
        _RESET.write_text("5")  # from now on VmHWM is the peak since now
    except OSError:
        return _sampled_growth(run)
    before = _kilobytes("VmRSS")
    run()
    return 1024 * max(0, _kilobytes("VmHWM") - before)


def _sampled_growth(run) -> int:
    """The same by looking often, for kernels that do not let the peak be reset."""
    before, peak, over = _kilobytes("VmRSS"), [0], threading.Event()

    def look():
        while not over.is_set():
            peak[0] = max(peak[0], _kilobytes("VmRSS"))
            time.sleep(1e-3)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    run()
    over.set()
    thread.join()
    return 1024 * max(0, peak[0] - before)


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def main() -> None:
    """One side of one case, from the first argument."""
    request = json.loads(sys.argv[1])
    case, name = Case(**request["case"]), request["side"]
    if name != "jaxtok":
        import torch

        torch.set_num_threads(request["threads"])
    small = dataclasses.replace(case, tokens=min(case.tokens, FEWEST_TOKENS))
    if case.family in ("vq", "rvq"):
        small = dataclasses.replace(small, codes=min(case.codes, _SMALL_CODES))
    elif case.family == "lfq":
        small = dataclasses.replace(small, codes=2 ** min(case.width, 8), width=min(case.width, 8))
    first = build(small, name)
    first.run(1)
    del first
    side = build(case, name)
    print(json.dumps({"peak": peak_growth(lambda: side.run(1)), "planned": side.planned_bytes}))


if __name__ == "__main__":
    main()
