"""What `step_time.py` measures: for each task the same computation in PyTorch and in jaxtok, compared before
it is timed.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from experiments.benchmarks.torch_weights import torch_names, torch_prior, torch_tokenizer
from jaxtok.codes import Latents
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.binary_diffusion import DiffusionSettings
from jaxtok.systems.image.instella_t2i import PRIORS, InstellaT2I
from jaxtok.systems.objectives import PriorObjective, objective_for
from jaxtok.train.gradient import gradient
from jaxtok.train.optimizer import optimizer
from jaxtok.train.schedules import TrainConfig

GUIDANCE, DIFFUSION_STEPS = 3.0, 20
TOLERANCE = 1e-4
# AdamW alone, as PyTorch's: no schedule, clipping or running average.
PLAIN = TrainConfig(schedule="constant", warmup_steps=0, clip_norm=0.0, ema_decay=0.0)
SIZES = {
    "tiny": (InstellaT2I.tiny(), 64),
    "small": (InstellaT2I.small(), 32),
}

TASKS = ("train tokenizer", *(f"{kind} {name}" for kind in ("train", "sample") for name in PRIORS))

Side = Callable[[int], None]  # runs that many iterations and waits for them


@dataclasses.dataclass(frozen=True)
class Case:
    """One task.

    Attributes:
      task: what.
      sides: "torch", "jaxtok", and further variants of either.
      differences: of both sides' results, each relative to the largest number compared.
    """

    task: str
    sides: dict[str, Side]
    differences: dict[str, float]


def cases(size: str, tasks: tuple[str, ...] = TASKS, compile_torch: bool = False) -> Iterator[Case]:
    """The tasks of a size, one after the other.

    Args:
      size: one of `SIZES`.
      tasks: some of `TASKS`.
      compile_torch: also PyTorch's training step through `torch.compile`.

    Raises:
      ValueError: the two sides do not compute the same.
    """
    model, batch = SIZES[size]
    rng = np.random.default_rng(0)
    side = model.image_size
    images = rng.integers(0, 256, (batch, side, side, model.channels), dtype=np.uint8)
    codes = rng.integers(0, 2, (batch, model.tokens, model.space.slots)).astype(np.int32)
    ids = rng.integers(1, 257, (batch, model.text.length)).astype(np.int32)
    mask = np.arange(model.text.length) < rng.integers(8, model.text.length, (batch, 1))
    for task in tasks:
        kind, _, name = task.partition(" ")
        if name == "tokenizer":
            case = _tokenizer_case(model, images, compile_torch)
        else:
            setting = _PriorSetting(model, name, codes, np.where(mask, ids, 0), mask)
            case = _prior_case(setting, compile_torch) if kind == "train" else _sampler_case(setting)
        wrong = {name: value for name, value in case.differences.items() if not value < TOLERANCE}
        if wrong:
            raise ValueError(f"{size} {case.task}: the two sides differ by {wrong}, allowed is {TOLERANCE}")
        yield case


def _tokenizer_case(model: InstellaT2I, images: np.ndarray, compile_torch: bool) -> Case:
    objective = objective_for(model.quantizer)(model.tokenizer())
    batch = {"image": jnp.asarray(images)}
    init = jax.jit(lambda key: objective.init(key, batch, {})["params"])
    params = _perturbed(init(jax.random.key(0)))
    theirs = torch_tokenizer(model)
    theirs.load_state_dict(torch_names(model, "tokenizer", params))
    float_images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 127.5 - 1

    thresholded = dataclasses.replace(objective, temperature=0.0)
    keys = jax.random.split(jax.random.key(0), len(images))

    def loss(objective, params, batch, keys, step):
        return objective.loss({"params": params}, batch, {}, keys, step).total

    value, gradients = jax.jit(jax.value_and_grad(partial(loss, thresholded)))(params, batch, keys, 0)
    differences = _compare(
        value,
        gradients,
        theirs,
        theirs.loss(float_images, 0.0),
        partial(torch_names, model, "tokenizer"),
    )
    reconstruction = jax.jit(model.tokenizer().apply)({"params": params}, images).x_hat
    with torch.no_grad():
        other = theirs(float_images)[0].permute(0, 2, 3, 1)
    differences["forward"] = _difference(reconstruction, other)

    def step_loss(module):
        return module.loss(float_images, model.quantizer.sampling_temperature)

    sides = {
        "torch": _torch_training(theirs, step_loss, compile_torch=False),
        "jaxtok": _jax_training(partial(loss, objective), params, batch),
        "jaxtok, full update": _jax_update(objective, params, batch),
    }
    if compile_torch:
        sides["torch.compile"] = _torch_training(theirs, step_loss, compile_torch=True)
    return Case("train tokenizer", sides, differences)


class _PriorSetting:
    """A prior on both sides with the same parameters, and a batch for it."""

    def __init__(self, model: InstellaT2I, name: str, codes: np.ndarray, ids: np.ndarray, mask: np.ndarray):
        self.model, self.name, self.codes = model, name, codes
        self.timed = name == "diffusion"
        self.prior = model.prior_named(name)
        self.latents = Latents(jnp.asarray(codes))
        self.condition = model.caption_condition(jnp.asarray(ids), jnp.asarray(mask))
        init = jax.jit(lambda key: self.prior.init(key, self.latents, self.condition))
        self.params = _perturbed(init(jax.random.key(0)))
        rule: Any = self.prior.method
        self.theirs = torch_prior(model, self.timed, rule.condition_dropout)
        self.theirs.load_state_dict(torch_names(model, name, self.params))
        self.text = (torch.from_numpy(ids), torch.from_numpy(mask))


def _prior_case(setting: _PriorSetting, compile_torch: bool) -> Case:
    s, rng = setting, np.random.default_rng(1)
    t = (rng.random(len(s.codes), np.float32),) if s.timed else ()
    flips = rng.random(s.codes.shape) < 0.3 if s.timed else np.zeros(s.codes.shape, bool)
    noisy = np.where(flips, 1 - s.codes, s.codes).astype(np.int32)
    target = flips if s.timed else s.codes == 1

    def fixed_loss(params):
        logits = s.prior.apply(params, noisy, s.condition, *t)
        return jnp.mean(jax.nn.softplus(jnp.where(target, -logits, logits))), logits

    bits = torch.from_numpy(s.codes == 1)
    noise = (None, torch.from_numpy(t[0]) if t else None, torch.from_numpy(flips) if t else None)
    (value, logits), gradients = jax.jit(jax.value_and_grad(fixed_loss, has_aux=True))(s.params)
    differences = _compare(
        value,
        gradients,
        s.theirs,
        s.theirs.loss(bits, *s.text, noise),
        partial(torch_names, s.model, s.name),
    )
    with torch.no_grad():
        other = s.theirs(torch.from_numpy(noisy == 1), s.theirs.contexts(*s.text), s.text[1], noise[1])
    differences["forward"] = _difference(logits, other)

    def loss(params, batch, keys, step):
        del step
        return s.prior.loss(params, batch["latents"], batch["condition"], keys)[0]

    def step_loss(module):
        return module.loss(bits, *s.text)

    # The codes stand where the images would, so that the frozen tokenizer costs nothing.
    def condition(batch: Any, frozen: Any) -> Any:
        del frozen
        return batch["condition"]

    objective = PriorObjective(s.prior, lambda _, batch: Latents(batch["image"]), condition)
    sides = {
        "torch": _torch_training(s.theirs, step_loss, compile_torch=False),
        "jaxtok": _jax_training(loss, s.params, {"latents": s.latents, "condition": s.condition}),
        "jaxtok, full update": _jax_update(
            objective, s.params, {"image": s.latents.codes, "condition": s.condition}
        ),
    }
    if compile_torch:
        sides["torch.compile"] = _torch_training(s.theirs, step_loss, compile_torch=True)
    return Case(f"train {s.name}", sides, differences)


def _sampler_case(setting: _PriorSetting) -> Case:
    s, differences = setting, {}

    def sampler(settings):
        return jax.jit(
            lambda params, condition, key: s.prior.sample(params, condition, key, settings=settings).codes
        )

    if s.timed:
        settings = DiffusionSettings(DIFFUSION_STEPS, GUIDANCE)
        run = partial(s.theirs.sample_bits, *s.text, GUIDANCE, DIFFUSION_STEPS)
    else:
        settings = AutoregressiveSettings(GUIDANCE)
        run = partial(s.theirs.sample_tokens, *s.text, GUIDANCE)
        greedy = sampler(AutoregressiveSettings(GUIDANCE, temperature=0.0))
        mine = np.asarray(greedy(s.params, s.condition, jax.random.key(0)))
        # Bits whose logit rounds to the other side of zero differ, and what follows them in the same row.
        other = s.theirs.sample_tokens(*s.text, GUIDANCE, temperature=0.0).numpy()
        differences["rows whose greedy bits differ, / 1000"] = (
            float(np.mean(np.any((mine == 1) != other, axis=(1, 2)))) / 1000
        )
    sample, key = sampler(settings), jax.random.key(0)

    def jax_side(count):
        for index in range(count):
            # Samples are looked at, so each is waited for.
            jax.block_until_ready(sample(s.params, s.condition, jax.random.fold_in(key, index)))

    def torch_side(count):
        for _ in range(count):
            run()

    return Case(f"sample {s.name}", {"torch": torch_side, "jaxtok": jax_side}, differences)


def _jax_training(loss: Callable[..., jax.Array], params: Any, batch: Any) -> Side:
    """`loss(params, batch, key, step)`, its gradient and AdamW in one compiled step."""
    transformation, root = optimizer(PLAIN), jax.random.key(0)

    @partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, moments, number = state
        key = jax.random.fold_in(root, number)
        value, gradients = jax.value_and_grad(loss)(params, batch, key, number)
        updates, moments = transformation.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, number + 1), value

    params = jax.tree.map(jnp.copy, params)
    return _loop(step, (params, transformation.init(params), jnp.int32(0)), batch)


def _jax_update(objective: Any, params: Any, batch: Any) -> Side:
    """The update of the library's loop: also a schedule, clipping, a running average, norms and metrics."""
    update, params = gradient(objective, TrainConfig()), jax.tree.map(jnp.copy, params)
    state = {"step": jnp.int32(0), "params": params, "optimizer": optimizer(update.fit).init(params)}
    state["ema"] = jax.tree.map(jnp.copy, params)
    key = jax.random.key(0)
    step = jax.jit(lambda state, batch: update(state, batch, {"tokenizer": {}}, key), donate_argnums=0)
    return _loop(step, state, batch)


def _loop(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batch: Any) -> Side:
    holder = [state]

    def run(count):
        for _ in range(count):
            holder[0], seen = step(holder[0], batch)
        jax.block_until_ready((holder[0], seen))

    return run


def _torch_training(module: Any, loss: Callable[[Any], Any], compile_torch: bool) -> Side:
    optimizer = torch.optim.AdamW(
        module.parameters(),
        PLAIN.learning_rate,
        PLAIN.betas,
        PLAIN.eps,
        PLAIN.weight_decay,
        fused=True,
    )
    compute = torch.compile(lambda: loss(module)) if compile_torch else lambda: loss(module)

    def run(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            compute().backward()
            optimizer.step()

    return run


def _perturbed(params: Any) -> Any:
    """Parameters away from zeros and ones, so that a comparison sees every one of them."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return tree.unflatten([x + 0.02 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)])


def _compare(
    loss: jax.Array, gradients: Any, module: Any, their_loss: Any, named: Callable[[Any], dict[str, Any]]
) -> dict[str, float]:
    """Differences of loss and gradients."""
    their_loss.backward()
    other = {name: parameter.grad for name, parameter in module.named_parameters()}
    mine = named(jax.device_get(gradients))
    largest = max(float(x.abs().max()) for x in mine.values())
    difference = max(float((mine[name] - x).abs().max()) for name, x in other.items())
    return {
        "loss": abs(float(loss) - their_loss.item()) / abs(float(loss)),
        "gradients": difference / largest,
    }


def _difference(mine: Any, other: Any) -> float:
    mine = np.asarray(mine)
    return float(np.abs(mine - other.numpy()).max() / np.abs(mine).max())
