"""Bit-flip (Bernoulli) diffusion over binary latents, as in Instella-T2I (arXiv 2506.21022).

Forward process, t in [0, 1]:  P(x_t = 1 | x_0) = (1 - t) x_0 + t / 2: every bit is flipped independently with
probability t / 2. The network reads x_t and t and predicts, per bit, the logit o that the bit was flipped;
the logit that x_0 = 1 is then (1 - x_t) o - x_t o, and the loss is the cross-entropy of x_0, which equals
that of the flip itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents
from jaxtok.decoding.guidance import guide_stacked, with_unconditional
from jaxtok.priors.contract import Codec, Metrics, Prior, drop_condition, masked_mean

Protocol = Literal["posterior", "protocol_1", "protocol_2"]


@dataclasses.dataclass(frozen=True)
class DiffusionSettings:
    """How to sample a bit-flip diffusion prior.

    Attributes:
      steps: network evaluations.
      guidance: strength w of classifier-free guidance, c + w (c - u); 0 samples the conditional model in one
        pass per step.
      temperature: divides the logits before guidance.
      rho: bends the time grid, t_i = (1 - i / steps)^rho; above 1 spends more steps near the data.
      protocol: "posterior", the exact one-step posterior; "protocol_1" redraws every bit from the predicted
        x_0 noised to the next time; "protocol_2" weighs that marginal by an approximate transition. The last
        two are those of the official code.
    """

    steps: int = 20
    guidance: float = 3.0
    temperature: float = 1.0
    rho: float = 1.0
    protocol: Protocol = "posterior"

    def __post_init__(self):
        if self.steps < 1 or self.temperature <= 0 or self.rho <= 0:
            raise ValueError(
                f"steps={self.steps} must be at least 1, temperature={self.temperature} and rho={self.rho} "
                "positive"
            )
        if self.protocol not in ("posterior", "protocol_1", "protocol_2"):
            raise ValueError(f"protocol={self.protocol!r}; choose 'posterior', 'protocol_1' or 'protocol_2'")


def corrupt(
    bits: Int[jax.Array, "B N Q"], t: Float[jax.Array, " B"], keys: jax.Array
) -> Int[jax.Array, "B N Q"]:
    """x_t: flips each bit with probability t / 2; at t = 1 the bits are fair coins."""
    flips = random.bernoulli(keys, jnp.broadcast_to(t[:, None, None] / 2, bits.shape))
    return bits ^ flips.astype(bits.dtype)


def x0_logits(
    flip_logits: Float[jax.Array, "*shape"], noisy: Int[jax.Array, "*shape"]
) -> Float[jax.Array, "*shape"]:
    """Logit of x_0 = 1 from the logit that the bit was flipped: o where x_t = 0, -o where x_t = 1."""
    return jnp.where(noisy == 1, -flip_logits, flip_logits)


def step_probability(
    p0: Float[jax.Array, "*shape"],
    noisy: Int[jax.Array, "*shape"],
    t: float | jax.Array,
    s: float | jax.Array,
    protocol: Protocol,
) -> Float[jax.Array, "*shape"]:
    """P(x_s = 1 | x_t) for one step from time t down to s, given the predicted p0 = P(x_0 = 1 | x_t).

    posterior: sum over x_0 of p(x_0) P(x_s = 1) P(x_t | x_s = 1) / normaliser(x_0), with the transition that
      keeps a bit with
    probability (1 + (1 - t) / (1 - s)) / 2.
    """
    marginal = p0 * (1 - s) + 0.5 * s
    if protocol == "protocol_1":
        return marginal
    if protocol == "protocol_2":
        keep = 1 - (t - s) * 0.5
        likelihood1 = jnp.where(noisy == 1, keep, 1 - keep)
        weight1, weight0 = marginal * likelihood1, (1 - marginal) * (1 - likelihood1)
        return weight1 / (weight1 + weight0)
    # s < t <= 1, so 1 - s > 0.
    keep = 0.5 * (1 + (1 - t) / (1 - s))
    likelihood1 = jnp.where(noisy == 1, keep, 1 - keep)

    def given_x0(x0):
        prior1 = x0 * (1 - s) + 0.5 * s
        weight1, weight0 = prior1 * likelihood1, (1 - prior1) * (1 - likelihood1)
        # At s = 0 one x_0 makes both weights zero where t = 0 too; its own probability is zero there as well.
        return weight1 / jnp.maximum(weight1 + weight0, 1e-12)

    return p0 * given_x0(1.0) + (1 - p0) * given_x0(0.0)


@dataclasses.dataclass(frozen=True)
class BinaryDiffusion:
    """The method of a bit-flip diffusion prior; its network is timed and not causal.

    Attributes:
      times: "logistic_normal" (sigmoid of a standard normal, most weight on middle times) or "uniform".
      target: "flip" (the network's logit says whether the bit was flipped) or "x0" (whether the clean bit is
        1).
      condition_dropout: probability that a row trains with the null condition, which guidance needs.
      settings: recommended sampler settings.
    """

    times: Literal["logistic_normal", "uniform"] = "logistic_normal"
    target: Literal["flip", "x0"] = "flip"
    condition_dropout: float = 0.1
    settings: DiffusionSettings = DiffusionSettings()

    @property
    def loss_name(self) -> str:
        """What the loss is; it bounds no likelihood."""
        return "denoising_loss"

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """One time per row."""
        return (jnp.zeros((latents.codes.shape[0],), jnp.float32),)

    def default_settings(self) -> DiffusionSettings:
        """Recommended sampler settings."""
        return self.settings

    def loss(
        self,
        apply: Callable[..., jax.Array],
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy of the clean bits in nats per bit.

        Args:
          apply: `(params, codes, condition, t) -> logits`.
          params: the network's parameters.
          latents: clean bits int32 [B, N, Q].
          condition: B rows, or None.
          key: scalar, or one key per example.
          codec: not used.

        Returns:
          The loss and "bit_accuracy", how many clean bits are predicted right.

        Raises:
          ValueError: the network does not have one logit per bit.
        """
        del codec
        bits = latents.codes
        keys = random.example_keys(key, bits.shape[0])
        t = self._draw_times(random.fold(keys, 0))
        noisy = corrupt(bits, t, random.fold(keys, 1))
        condition = drop_condition(condition, keys, self.condition_dropout)
        output = apply(params, noisy, condition, t)
        if output.shape != bits.shape:
            raise ValueError(
                f"bit-flip diffusion needs one logit per bit, codes are {bits.shape}, logits {output.shape}; "
                "is the space of the network binary?"
            )
        logits = self._x0(output, noisy)
        nll = jax.nn.softplus(jnp.where(bits == 1, -logits, logits))
        accuracy = masked_mean(((logits > 0) == (bits == 1)).astype(jnp.float32), latents.mask)
        return masked_mean(nll, latents.mask), {"bit_accuracy": accuracy}

    def sample(
        self,
        prior: Prior,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: DiffusionSettings,
        codec: Codec | None,
    ) -> Latents:
        """Draws bits in `settings.steps` network evaluations, see `Prior.sample`.

        Raises:
          ValueError: a space that is not binary.
        """
        del codec
        if not prior.space.is_binary:
            raise ValueError(
                f"bit-flip diffusion needs a binary space, this one has levels {prior.space.levels}"
            )
        keys = random.example_keys(key, batch)
        guided = bool(settings.guidance) and condition is not None
        doubled = with_unconditional(condition) if guided and condition is not None else condition
        cache = prior.start(params, doubled, 0, None if doubled is not None else batch)
        grid = (1 - jnp.arange(settings.steps + 1) / settings.steps) ** settings.rho

        def predict(bits, t):
            rows = jnp.concatenate([bits, bits]) if guided else bits
            logits = (
                prior.apply(params, rows, None, jnp.full((rows.shape[0],), t), cache) / settings.temperature
            )
            return guide_stacked(logits, settings.guidance, "c+s(c-u)") if guided else logits

        def keep_given(bits, t, step):
            if given is None:
                return bits
            known = corrupt(given.codes, jnp.full((batch,), t), random.fold(random.fold(keys, step), 1))
            return jnp.where(given.mask, known, bits)

        def step(bits, index):
            t, s = grid[index], grid[index + 1]
            p0 = jax.nn.sigmoid(self._x0(predict(bits, t), bits))
            p = step_probability(p0, bits, t, s, settings.protocol)
            drawn = random.bernoulli(random.fold(random.fold(keys, index), 0), p)
            # The last step takes the likelier value: its randomness would only be noise on the result.
            bits = jnp.where(index == settings.steps - 1, p0 > 0.5, drawn).astype(jnp.int32)
            return keep_given(bits, s, index), None

        shape = (batch, prior.tokens, prior.space.slots)
        first = random.fold(keys, settings.steps)
        bits = random.bernoulli(random.fold(first, 0), jnp.full(shape, 0.5)).astype(jnp.int32)
        bits = keep_given(bits, grid[0], settings.steps)
        bits, _ = jax.lax.scan(step, bits, jnp.arange(settings.steps))
        return Latents(codes=bits)

    def _draw_times(self, keys):
        if self.times == "uniform":
            return random.uniform(keys, ())
        return jax.nn.sigmoid(random.normal(keys, ()))

    def _x0(self, output, noisy):
        return x0_logits(output, noisy) if self.target == "flip" else output
