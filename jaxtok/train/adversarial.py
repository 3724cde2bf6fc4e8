"""Generator and discriminator in one compiled step."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxtok import keys as random
from jaxtok.losses import adversarial as losses
from jaxtok.losses.discriminators import Discrimination, FeatureDiscriminator
from jaxtok.losses.feature_matching import feature_matching_loss, several
from jaxtok.losses.terms import Terms
from jaxtok.param_trees import flatten
from jaxtok.train.gradient import apply_gradients
from jaxtok.train.optimizer import optimizer
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Objective, State, collections_of

_LOSSES = {
    "hinge": (losses.hinge_discriminator, losses.hinge_generator),
    "nonsaturating": (losses.nonsaturating_discriminator, losses.nonsaturating_generator),
    "least_squares": (losses.least_squares_discriminator, losses.least_squares_generator),
}


@dataclasses.dataclass(frozen=True)
class DiscriminatorWeights:
    """How strongly a discriminator pulls, and from when on.

    Attributes:
      weight: of the generator's adversarial loss; 0 turns the discriminator off.
      start: step from which it counts; the discriminator trains from there on too.
      ramp: steps until it counts fully.
      loss: "hinge", "nonsaturating" or "least_squares".
      lecam_weight: of the LeCam regulariser.
      adaptive_limit: upper bound of the adaptive weight (ratio of the gradients of the other losses and of
        the adversarial one at the decoder's last layer); 0 turns adaptation off, which saves one backward
        pass.
      feature_matching_weight: of the distance between the discriminator's features of "real" and "fake", one
        of the other losses once the discriminator has started; 0 turns it off, which saves a forward pass.
      feature_matching_relative: whether that is divided by the size of the features (EnCodec).
    """

    weight: float = 0.0
    start: int = 0
    ramp: int = 1
    loss: Literal["hinge", "nonsaturating", "least_squares"] = "hinge"
    lecam_weight: float = 0.0
    adaptive_limit: float = 1e4
    feature_matching_weight: float = 0.0
    feature_matching_relative: bool = False


@dataclasses.dataclass(frozen=True)
class AdversarialUpdate:
    """`Update` with a discriminator, see `adversarial`.

    Attributes:
      objective: its outputs are "real" and "fake" [B, ...], signals of any kind.
      fit: of the generator.
      discriminator: Linen module, such a signal -> logits; or with `discriminate`, see
        `FeatureDiscriminator`, which may be several discriminators. Losses are means over them.
      discriminator_fit: of the discriminator (its steps are those of the generator).
      weights: how strongly.
      last_layer: path in the generator's parameters at which the adaptive weight compares gradients.
    """

    objective: Objective
    fit: TrainConfig
    discriminator: Any
    discriminator_fit: TrainConfig
    weights: DiscriminatorWeights
    last_layer: str

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> State:
        """Fresh generator and discriminator."""
        variables = self.objective.init(key, batch, frozen)
        if self.last_layer not in flatten(variables["params"]):
            names = [name for name in flatten(variables["params"]) if name.endswith("kernel")][-5:]
            raise ValueError(
                f"no parameter {self.last_layer!r} for the adaptive weight; there are, among others, {names}"
            )
        real = jax.eval_shape(self._real, variables, batch, frozen, key)
        one = jnp.zeros((1, *real.shape[1:]), jnp.float32)
        discriminator = self.discriminator.init(jax.random.fold_in(key, 1), one)["params"]
        state = {
            "step": jnp.int32(0),
            **variables,
            "optimizer": optimizer(self.fit).init(variables["params"]),
            "discriminator": {
                "params": discriminator,
                "optimizer": optimizer(self.discriminator_fit).init(discriminator),
                "lecam": losses.lecam_init(),
            },
        }
        if self.fit.ema_decay:
            state["ema"] = jax.tree.map(jnp.copy, variables["params"])
        return state

    def __call__(
        self, state: State, batch: Any, frozen: Any, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """One step of the generator, then one of the discriminator on the same signals."""
        key = jax.random.fold_in(key, state["step"])
        keys = _example_keys(key, batch)
        discriminator_loss, generator_loss = _LOSSES[self.weights.loss]
        discriminator, w = state["discriminator"], self.weights
        active = losses.start_weight(state["step"], w.start, w.ramp)

        def both(params):
            variables = {**collections_of(state), "params": params}
            terms = self.objective.loss(variables, batch, frozen, keys, state["step"])
            on_fake, total, extra = self._on(discriminator["params"], terms.outputs["fake"]), terms.total, {}
            if w.feature_matching_weight:
                on_real = self._on(discriminator["params"], terms.outputs["real"])
                distance = feature_matching_loss(on_real, on_fake, w.feature_matching_relative)
                total = total + active * w.feature_matching_weight * distance
                extra = {"loss/feature_matching": distance}
            fooling = losses.mean_over_discriminators(generator_loss, _logits(on_fake))
            return (total, fooling), (terms, extra)

        (total, adversarial_loss), pull, (terms, extra) = jax.vjp(both, state["params"], has_aux=True)
        gradients, factor = self._generator_gradients(pull, w.weight * active)
        metrics = {**terms.metrics, "loss/generator": adversarial_loss, "discriminator/weight": factor}
        metrics |= extra
        real, fake = jax.lax.stop_gradient((terms.outputs["real"], terms.outputs["fake"]))
        terms = Terms(total, metrics, terms.statistics, {})
        new_state, metrics = apply_gradients(self.objective, self.fit, state, gradients, terms, key)

        def discriminate(params):
            on_real, on_fake = (_logits(self._on(params, x)) for x in (real, fake))
            loss = losses.mean_over_discriminators(discriminator_loss, on_real, on_fake)
            on_real, on_fake = _means(on_real), _means(on_fake)
            lecam = losses.lecam_loss(discriminator["lecam"], on_real, on_fake)
            return active * (loss + w.lecam_weight * lecam), (loss, on_real, on_fake)

        gradients, (loss, on_real, on_fake) = jax.grad(discriminate, has_aux=True)(discriminator["params"])
        updates, moments = optimizer(self.discriminator_fit).update(
            gradients, discriminator["optimizer"], discriminator["params"]
        )
        # Weight decay and moments must not move a discriminator that has not started.
        started = jax.tree.map(
            lambda new, old: jnp.where(active > 0, new, old),
            {
                "params": optax.apply_updates(discriminator["params"], updates),
                "optimizer": moments,
                "lecam": losses.lecam_update(discriminator["lecam"], on_real, on_fake),
            },
            discriminator,
        )
        metrics |= {
            "loss/discriminator": loss,
            "discriminator/real": jnp.mean(on_real),
            "discriminator/fake": jnp.mean(on_fake),
        }
        return {**new_state, "discriminator": started}, metrics

    def _real(self, variables: Any, batch: Any, frozen: Any, key: jax.Array) -> jax.Array:
        keys = _example_keys(key, batch)
        return self.objective.loss(variables, batch, frozen, keys, jnp.int32(0)).outputs["real"]

    def _on(self, params: Any, x: jax.Array) -> tuple[Discrimination, ...]:
        """What each discriminator says of some signals."""
        if isinstance(self.discriminator, FeatureDiscriminator):
            return several(self.discriminator.apply({"params": params}, x, method="discriminate"))  # pyright: ignore
        return (Discrimination(self.discriminator.apply({"params": params}, x)),)

    def _generator_gradients(self, pull: Callable[..., Any], weight: jax.Array) -> tuple[Any, jax.Array]:
        one, zero = jnp.float32(1), jnp.float32(0)
        if not self.weights.adaptive_limit:
            return pull((one, weight))[0], weight
        # Both gradients from one forward pass: the adaptive weight needs them apart.
        from_losses, from_discriminator = pull((one, zero))[0], pull((zero, one))[0]
        ratio = losses.adaptive_weight(
            flatten(from_losses)[self.last_layer],
            flatten(from_discriminator)[self.last_layer],
            self.weights.adaptive_limit,
        )
        factor = weight * ratio
        return jax.tree.map(lambda a, b: a + factor * b, from_losses, from_discriminator), factor


def _example_keys(key: jax.Array, batch: Any) -> jax.Array:
    return random.example_keys(key, jax.tree.leaves(batch)[0].shape[0])


def _logits(results: tuple[Discrimination, ...]) -> tuple[jax.Array, ...]:
    return tuple(result.logits for result in results)


def _means(logits: tuple[jax.Array, ...]) -> jax.Array:
    """The logits of one discriminator, or the mean of each of several, which count alike."""
    return logits[0] if len(logits) == 1 else jnp.stack([jnp.mean(each) for each in logits])


def adversarial(
    objective: Objective,
    fit: TrainConfig,
    discriminator: Any,
    weights: DiscriminatorWeights,
    last_layer: str,
    discriminator_fit: TrainConfig | None = None,
) -> AdversarialUpdate:
    """The update of a generator and its discriminator in one compiled step.

    Args:
      objective: an objective whose outputs are "real" and "fake" signals.
      fit: of the generator.
      discriminator: Linen module, signals -> logits, or one with `discriminate`.
      weights: strength, start, loss and regularisation.
      last_layer: path of the generator's last kernel, such as "decoder/pixels/kernel".
      discriminator_fit: default that of the generator without its averages and groups.

    Raises:
      ValueError: micro-batches, which would need the discriminator's logits of the whole batch at once; or
        feature matching with a discriminator that shows no features.
    """
    if fit.micro_batches != 1:
        raise ValueError(
            f"micro_batches={fit.micro_batches} with a discriminator; use 1, remat, or a smaller batch"
        )
    if weights.feature_matching_weight and not isinstance(discriminator, FeatureDiscriminator):
        raise ValueError(
            f"feature_matching_weight={weights.feature_matching_weight} needs features, which "
            f"{type(discriminator).__name__} does not show; give it a method `discriminate` or set it to 0"
        )
    own = discriminator_fit or dataclasses.replace(fit, ema_decay=0.0, groups=())
    return AdversarialUpdate(objective, fit, discriminator, own, weights, last_layer)
