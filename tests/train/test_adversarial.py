import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtok.losses.adversarial import hinge_generator
from jaxtok.losses.discriminators import Discrimination, Several
from jaxtok.losses.terms import Terms
from jaxtok.train.adversarial import DiscriminatorWeights, adversarial
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from tests.small_system import assert_trees_close

KEY = jax.random.key(0)
BATCH = {"image": np.random.default_rng(0).standard_normal((4, 4, 4, 1)).astype(np.float32)}
FIT = TrainConfig(
    steps=10, learning_rate=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.1, ema_decay=0.9
)
WEIGHTS = DiscriminatorWeights(weight=0.5, start=2, lecam_weight=0.1)


@dataclasses.dataclass(frozen=True)
class Painter:
    """Images times a matrix per pixel row, then a last layer: an objective without a network."""

    def init(self, key, batch, frozen):
        first, last = jax.random.normal(key, (2, 4, 4)) * 0.3
        return {"params": {"first": {"kernel": first}, "last": {"kernel": last}}}

    def loss(self, variables, batch, frozen, keys, step):
        params, real = variables["params"], batch["image"]
        hidden = jnp.tanh(jnp.einsum("bhwc,hk->bkwc", real, params["first"]["kernel"]))
        fake = jnp.einsum("bkwc,kh->bhwc", hidden, params["last"]["kernel"])
        loss = jnp.mean(jnp.square(fake - real))
        return Terms(loss, {"loss/l2": loss}, {}, {"real": real, "fake": fake})

    def update_collections(self, collections, statistics, key):
        return collections

    def summarise(self, statistics):
        return {}


class Critic(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(images.reshape(len(images), -1))))


def build(weights=WEIGHTS, fit=FIT):
    return adversarial(Painter(), fit, Critic(), weights, "last/kernel")


@functools.cache
def run(update, steps):
    """States and metrics of the first steps; each update is compiled once."""
    states, rows = [jax.jit(update.init)(KEY, BATCH, {})], []
    step = jax.jit(update)
    for _ in range(steps):
        state, metrics = step(states[-1], BATCH, {}, KEY)
        states.append(state)
        rows.append(jax.device_get(metrics))
    return states, rows


def changed(before, after):
    return [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))]


def test_both_move_from_the_start_on_and_the_discriminator_not_before():
    states, rows = run(build(), 4)
    for before, after in itertools.pairwise(states):
        assert all(changed(before["params"], after["params"]))
        moved = changed(before["discriminator"], after["discriminator"])
        assert all(moved) if before["step"] >= 2 else not any(moved)
    assert [float(row["discriminator/weight"]) > 0 for row in rows] == [False, False, True, True]
    assert rows[3]["loss/discriminator"] < rows[2]["loss/discriminator"]


def test_lecam_averages_the_logits():
    (_, _, before, after, _), (_, _, row, _) = run(build(), 4)
    assert before["discriminator"]["lecam"] == {"real": 0, "fake": 0}
    for name, value in after["discriminator"]["lecam"].items():
        np.testing.assert_allclose(value, 0.001 * row[f"discriminator/{name}"], rtol=1e-4)


def test_adaptive_weight_and_gradient_as_by_hand():
    update = build(dataclasses.replace(WEIGHTS, start=0, ramp=4))
    (state, after), (row,) = run(update, 1)
    critic = state["discriminator"]["params"]

    def pixel(params):
        return Painter().loss({"params": params}, BATCH, {}, None, 0).total

    def fooling(params):
        fake = Painter().loss({"params": params}, BATCH, {}, None, 0).outputs["fake"]
        return hinge_generator(Critic().apply({"params": critic}, fake))

    compiled = jax.jit(lambda params: (jax.grad(pixel)(params), jax.value_and_grad(fooling)(params)))
    one, (fooled, two) = jax.device_get(compiled(state["params"]))
    norms = [np.linalg.norm(g["last"]["kernel"]) for g in (one, two)]
    factor = 0.5 * 0.25 * norms[0] / (norms[1] + 1e-4)  # weight, first step of a ramp of four, ratio
    np.testing.assert_allclose(row["discriminator/weight"], factor, rtol=1e-5)
    total = jax.tree.map(lambda a, b: a + factor * b, one, two)
    np.testing.assert_allclose(row["norm/gradients"], optax.tree.norm(total), rtol=1e-5)
    np.testing.assert_allclose(row["loss/generator"], fooled, rtol=1e-5)
    assert all(changed(state["discriminator"], after["discriminator"]))


def test_limit_zero_turns_adaptation_off():
    _, (row,) = run(build(DiscriminatorWeights(weight=0.5, adaptive_limit=0.0)), 1)
    assert row["discriminator/weight"] == 0.5


@pytest.mark.parametrize("adaptive_limit", [0.0, 1e4])
def test_weight_zero_equals_no_discriminator(adaptive_limit):
    states, _ = run(build(DiscriminatorWeights(weight=0.0, adaptive_limit=adaptive_limit)), 3)
    plain, _ = run(gradient(Painter(), FIT), 3)
    generator = {name: value for name, value in states[-1].items() if name != "discriminator"}
    assert_trees_close(generator, plain[-1], 1e-6)


def test_nonsaturating_loss_trains_too():
    _, rows = run(build(dataclasses.replace(WEIGHTS, start=0, loss="nonsaturating")), 4)
    assert rows[-1]["loss/discriminator"] < rows[0]["loss/discriminator"]


def test_discriminator_has_its_own_fit():
    own = dataclasses.replace(FIT, learning_rate=1e-6, ema_decay=0.0)
    update = adversarial(Painter(), FIT, Critic(), DiscriminatorWeights(1.0), "last/kernel", own)
    (before, after), _ = run(update, 1)
    steps = jax.tree.map(lambda a, b: np.abs(a - b).max(), before["discriminator"], after["discriminator"])
    assert max(jax.tree.leaves(steps["params"])) < 2e-6
    assert build().discriminator_fit.ema_decay == 0


def test_what_cannot_be():
    with pytest.raises(ValueError, match="micro_batches=2 with a discriminator"):
        build(fit=dataclasses.replace(FIT, micro_batches=2))
    with pytest.raises(ValueError, match=r"no parameter 'decoder/out'.*last/kernel"):
        adversarial(Painter(), FIT, Critic(), WEIGHTS, "decoder/out").init(KEY, BATCH, {})


class Seeing(Critic):
    """A critic of features, whose logits are those of `Critic` with the same parameters."""

    def __call__(self, images):
        return self.discriminate(images).logits

    @nn.compact
    def discriminate(self, images):
        hidden = nn.tanh(nn.Dense(5, name="Dense_1")(images.reshape(len(images), -1)))
        return Discrimination(nn.Dense(3, name="Dense_0")(hidden), (hidden,))


def seeing(discriminator=None, **weights):
    weights = dataclasses.replace(WEIGHTS, start=0, **weights)
    return adversarial(Painter(), FIT, discriminator or Seeing(), weights, "last/kernel")


def test_features_that_are_not_matched_change_nothing():
    states, rows = run(build(dataclasses.replace(WEIGHTS, start=0)), 2)
    shown, others = run(seeing(), 2)
    jax.tree.map(np.testing.assert_array_equal, (states, rows), (shown, others))


def test_feature_matching_is_one_of_the_other_losses():
    update = seeing(feature_matching_weight=3.0, adaptive_limit=0.0, ramp=2)
    (state, _), (row,) = run(update, 1)
    critic = state["discriminator"]["params"]
    hidden = lambda x: Seeing().apply({"params": critic}, x, method="discriminate").features[0]

    def total(params):
        terms = Painter().loss({"params": params}, BATCH, {}, None, 0)
        fake, real = terms.outputs["fake"], terms.outputs["real"]
        distance = jnp.mean(jnp.abs(hidden(fake) - jax.lax.stop_gradient(hidden(real))))
        fooling = hinge_generator(Critic().apply({"params": critic}, fake))
        return terms.total + 0.5 * (3.0 * distance + 0.5 * fooling), distance  # a half of the ramp

    gradients, distance = jax.jit(jax.grad(total, has_aux=True))(state["params"])
    np.testing.assert_allclose(row["norm/gradients"], optax.tree.norm(gradients), rtol=1e-5)
    np.testing.assert_allclose(row["loss/feature_matching"], distance, rtol=1e-5)
    assert "loss/feature_matching" not in run(build(), 4)[1][0]


def test_several_discriminators_count_alike():
    update = seeing(Several((Seeing(), Seeing())), loss="least_squares", adaptive_limit=0.0)
    (state, after), (row,) = run(update, 1)
    real = BATCH["image"]
    fake = Painter().loss({"params": state["params"]}, BATCH, {}, None, 0).outputs["fake"]
    params = state["discriminator"]["params"].values()
    logits = [[Critic().apply({"params": each}, x) for x in (real, fake)] for each in params]
    assert len(logits) == 2
    expected = np.mean([(np.square(1 - r).mean() + np.square(f).mean()) / 2 for r, f in logits])
    np.testing.assert_allclose(row["loss/discriminator"], expected, rtol=1e-5)
    expected = np.mean([np.square(1 - f).mean() for _, f in logits])
    np.testing.assert_allclose(row["loss/generator"], expected, rtol=1e-5)
    np.testing.assert_allclose(row["discriminator/real"], np.mean([r.mean() for r, _ in logits]), rtol=1e-4)
    assert all(changed(state["discriminator"], after["discriminator"]))


@dataclasses.dataclass(frozen=True)
class Singer(Painter):
    """The same objective for signals of one axis, under another name."""

    def loss(self, variables, batch, frozen, keys, step):
        terms = Painter().loss(variables, {"image": batch["audio"][..., None, None]}, frozen, keys, step)
        outputs = {name: value[..., 0, 0] for name, value in terms.outputs.items()}
        return dataclasses.replace(terms, outputs=outputs)


def test_no_kind_of_signal_is_named():
    update = dataclasses.replace(build(), objective=Singer())
    audio = {"audio": BATCH["image"][:, :, 0, 0]}
    state = jax.eval_shape(update.init, KEY, audio, {})
    assert state["discriminator"]["params"]["Dense_1"]["kernel"].shape == (4, 5)
    assert jax.eval_shape(update, state, audio, {}, KEY)[0].keys() == state.keys()


def test_features_that_are_not_shown_cannot_be_matched():
    with pytest.raises(ValueError, match=r"feature_matching_weight=1\.0 needs features, which Critic"):
        build(DiscriminatorWeights(feature_matching_weight=1.0))
