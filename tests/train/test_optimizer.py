import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtok.train.optimizer import decays, ema, optimizer
from jaxtok.train.schedules import TrainConfig

PARAMS = {
    "encoder": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)},
    "decoder": {"blocks": {"kernel": np.ones((4, 3, 2), np.float32), "scale": np.ones((4, 3), np.float32)}},
}
GRADS = jax.tree.map(lambda x: np.float32(2) * x, PARAMS)


def _step(fit, grads=GRADS):
    transformation = optimizer(fit)
    return jax.jit(lambda grads: transformation.update(grads, transformation.init(PARAMS), PARAMS))(grads)


def _plain(**fit):
    return TrainConfig(
        **{"schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1, "weight_decay": 0.0, **fit}
    )


def test_first_step_moves_by_the_learning_rate():
    updates, _ = _step(_plain())
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-5)


def test_equals_adamw_with_the_mask():
    fit = TrainConfig(steps=10, warmup_steps=0, schedule="constant", weight_decay=0.3, clip_norm=0.5)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(fit.learning_rate, *fit.betas, eps=fit.eps, weight_decay=0.3, mask=decays(PARAMS)),
    )
    ours, theirs = PARAMS, PARAMS
    state, reference_state = optimizer(fit).init(ours), reference.init(theirs)

    @jax.jit
    def step(n, ours, state, theirs, reference_state):
        grads = jax.tree.map(lambda x: jnp.cos(x + n), GRADS)
        updates, state = optimizer(fit).update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, reference_state = reference.update(grads, reference_state, theirs)
        return ours, state, optax.apply_updates(theirs, updates), reference_state

    for n in range(3):
        ours, state, theirs, reference_state = step(n, ours, state, theirs, reference_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_vectors_biases_and_scales_do_not_decay():
    assert decays(PARAMS) == {
        "encoder": {"kernel": True, "bias": False},
        "decoder": {"blocks": {"kernel": True, "scale": False}},
    }


def test_groups_scale_the_rate_and_freeze_without_state():
    groups = (("encoder/bias", 10.0), ("encoder", 0.0), ("kernel", 0.5))
    updates, state = _step(_plain(groups=groups))
    np.testing.assert_allclose(updates["encoder"]["bias"], -1.0, rtol=1e-5)
    np.testing.assert_array_equal(updates["encoder"]["kernel"], 0.0)
    np.testing.assert_allclose(updates["decoder"]["blocks"]["kernel"], -0.05, rtol=1e-5)
    np.testing.assert_allclose(updates["decoder"]["blocks"]["scale"], -0.1, rtol=1e-5)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(shapes) == sorted([(3,), (4, 3, 2), (4, 3)] * 2)


def test_frozen_gradients_do_not_count_in_the_clipped_norm():
    huge = {**GRADS, "encoder": jax.tree.map(lambda x: 1e6 * x, GRADS["encoder"])}
    fit = _plain(groups=(("encoder", 0.0),), eps=1.0)  # a large epsilon shows the size of the gradient
    updates, huge_updates = _step(fit)[0], _step(fit, huge)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, huge_updates)


def test_group_without_parameters():
    fit = _plain(groups=(("encoder", 0.0), ("encoder/bias", 2.0), ("head", 2.0)))
    with pytest.raises(ValueError, match=r"\['encoder/bias', 'head'\] decide about no parameter"):
        optimizer(fit).init(PARAMS)


def test_ema_warms_up_and_then_keeps_its_decay():
    average, now = {"x": jnp.float32(1.0)}, {"x": jnp.float32(3.0)}
    np.testing.assert_allclose(ema(average, now, 0.99, jnp.int32(0))["x"], 0.1 * 1 + 0.9 * 3, rtol=1e-6)
    np.testing.assert_allclose(ema(average, now, 0.99, jnp.int32(8))["x"], 0.5 * 1 + 0.5 * 3, rtol=1e-6)
    np.testing.assert_allclose(ema(average, now, 0.99, jnp.int32(9999))["x"], 0.99 * 1 + 0.01 * 3, rtol=1e-6)


def test_ema_of_constant_parameters_is_exact_and_keeps_dtypes():
    params = {"x": jnp.array([0.1, 1e6], jnp.float32)}
    average = ema(params, params, 0.999, jnp.int32(5))
    np.testing.assert_array_equal(average["x"], params["x"])
    assert average["x"].dtype == jnp.float32
