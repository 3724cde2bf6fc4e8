"""The jaxtok side of `quantizers.py`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import quantizers_cases as shared
from experiments.benchmarks.quantizers_cases import Case, Side
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.lfq import LFQ
from jaxtok.quantize.residual import residual_vq
from jaxtok.quantize.vq import VectorQuantizer


def module_of(case: Case) -> Any:
    """The quantizer of a case."""
    if case.family == "lfq":
        return LFQ(
            bits=case.width,
            commitment=shared.COMMITMENT,
            entropy_weight=shared.ENTROPY_WEIGHT,
            inverse_temperature=shared.INVERSE_TEMPERATURE,
        )
    if case.family == "fsq":
        return FSQ(levels=shared.FSQ_LEVELS)
    options: Any = {"learning": "ema", "commitment": shared.COMMITMENT, "decay": shared.DECAY}
    if case.family == "rvq":
        return residual_vq(case.depth, case.codes, case.width, **options)
    return VectorQuantizer(case.codes, case.width, **options)


def jaxtok_side(case: Case) -> Side:
    """Compiles a case, without running it."""
    module, data = module_of(case), shared.inputs(case)
    z = jnp.asarray(data["z"])
    state = _state(case, data)
    if case.task == "look-up":
        arguments = (state, z)
        step = jax.jit(partial(_look_up, module)).lower(*arguments).compile()
    else:
        arguments = (state, z, jnp.asarray(data["cotangent"]))
        step = jax.jit(partial(_training_step, module), donate_argnums=0).lower(*arguments).compile()
    holder, rest = [state], arguments[1:]
    del state, arguments

    def iterate():
        if case.task == "look-up":
            return step(holder[0], *rest)
        holder[0], out = step(holder[0], *rest)
        return out

    def results():
        out = jax.device_get(iterate())
        flat = lambda x: np.asarray(x).reshape(case.tokens, -1)
        found = {name: flat(out[name]) for name in ("codes", "values", "gradient") if name in out}
        if "loss" in out:
            found["loss"] = np.asarray(out["loss"])
        if case.task == "training step" and "codebooks" in data:
            found["codebooks"] = np.stack([np.asarray(part["codebook"]) for part in _parts(case, holder[0])])
        return found

    def run(count):
        for _ in range(count):
            out = iterate()
        jax.block_until_ready(out)

    analysis = step.memory_analysis()
    planned = None if analysis is None else analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return Side(results, run, planned)


def _look_up(module, state, z):
    codes = module.apply({"quantizer": state}, z, method="encode")
    return {"codes": codes, "values": module.apply({"quantizer": state}, codes, method="decode")}


def _training_step(module, state, z, cotangent):
    def objective(z):
        out = module.apply({"quantizer": state}, z, train=True)
        loss = sum(out.losses.values(), jnp.float32(0))
        return loss + jnp.vdot(out.values, cotangent), (loss, out)

    gradient, (loss, out) = jax.grad(objective, has_aux=True)(z)
    state = module.update(state, out.statistics, jax.random.key(0))
    return state, {"codes": out.codes, "values": out.values, "loss": loss, "gradient": gradient}


def _state(case: Case, data: dict[str, np.ndarray]) -> Any:
    if "codebooks" not in data:
        return {}
    ones = np.ones(case.codes, np.float32)
    # Every leaf is an array of its own, because the state is donated.
    parts = [
        {"codebook": jnp.array(book), "counts": jnp.array(ones), "sums": jnp.array(book)}
        for book in data["codebooks"]
    ]
    return parts[0] if case.family == "vq" else {f"quantizers_{i}": part for i, part in enumerate(parts)}


def _parts(case: Case, state: Any) -> list[Any]:
    return [state] if case.family == "vq" else [state[f"quantizers_{i}"] for i in range(case.depth)]
