"""Residual quantization with neural codebooks, and the pre-selection of its candidates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
from tests.filled import filled, normal

Z = normal(3, 20, 6)
MODULE = NeuralResidualQuantizer(3, 9, 6, hidden=8, layers=2)
KEY = jax.random.key(0)


@functools.cache
def proposing(candidates):
    """A quantizer that proposes, and variables in which it proposes what exact ones choose from."""
    module = MODULE.clone(candidates=candidates)
    variables = filled(module, Z)
    return module, variables


def exact(variables):
    return {"params": {k: v for k, v in variables["params"].items() if not k.startswith("proposal")}}


def test_codes_are_the_nearest_of_what_the_network_makes_of_the_codebook():
    variables = filled(MODULE, Z)

    @jax.jit
    def run(variables):
        codes = MODULE.apply(variables, Z, method="encode")
        nearest = []
        for i in (1, 2):
            every = jnp.broadcast_to(jnp.arange(9)[:, None, None], (9, 3, 20))
            prefix = jnp.broadcast_to(codes[..., :i], (9, 3, 20, i))
            paths = jnp.concatenate([prefix, every[..., None]], axis=-1).reshape(27, 20, i + 1)
            values = MODULE.apply(variables, paths, method="decode").reshape(9, 3, 20, 6)
            nearest.append(jnp.argmin(jnp.sum(jnp.square(Z - values), axis=-1), axis=0))
        return codes, nearest, MODULE.apply(variables, codes[..., :1], method="decode")

    codes, nearest, total = jax.device_get(run(variables))
    np.testing.assert_array_equal(total, np.asarray(variables["params"]["codebook_0"])[codes[..., 0]])
    for i in (1, 2):
        np.testing.assert_array_equal(codes[..., i], nearest[i - 1])


def test_as_many_candidates_as_codes_are_the_exact_search():
    module, variables = proposing(9)
    assert {"proposal_1", "proposal_2"} < set(variables["params"])
    run = lambda module: jax.jit(functools.partial(module.apply, method="encode"))
    np.testing.assert_array_equal(run(module)(variables, Z), run(MODULE)(exact(variables), Z))


def test_codes_come_from_the_nearest_proposals():
    module, variables = proposing(2)

    @jax.jit
    def run(variables):
        codes = module.apply(variables, Z, method="encode")
        return codes, Z - module.apply(variables, codes[..., :1], method="decode")

    codes, residual = jax.device_get(run(variables))
    proposals = np.asarray(variables["params"]["proposal_1"])
    distances = np.sum(np.square(residual[..., None, :] - proposals), axis=-1)
    rank = np.argsort(np.argsort(distances, axis=-1), axis=-1)
    assert set(np.unique(np.take_along_axis(rank, codes[..., 1:2], axis=-1))) == {0, 1}


def test_proposals_learn_the_residuals_that_chose_them():
    module, variables = proposing(4)

    @jax.jit
    def step(params):
        loss = lambda params: module.apply({"params": params}, Z, train=True).losses["proposal"]
        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.tree.map(lambda p, g: p - 20.0 * g, params, gradient)

    before, gradient, params = step(variables["params"])
    moved = {name for name, leaf in gradient.items() for part in jax.tree.leaves(leaf) if np.any(part)}
    assert moved == {"proposal_1", "proposal_2"}  # and nothing else follows them
    for _ in range(20):
        after, _, params = step(params)
    assert after < 0.8 * before

    def error(module):
        run = jax.jit(lambda variables: jnp.mean(jnp.square(Z - module.apply(variables, Z).values)))
        return lambda variables: float(run(variables))

    searched, proposed = error(MODULE)(exact({"params": params})), error(module)
    assert searched <= proposed({"params": params}) <= proposed(variables)


def test_the_number_of_candidates_is_checked():
    with pytest.raises(ValueError, match="candidates=10 must be in 1"):
        jax.eval_shape(lambda: MODULE.clone(candidates=10).init(KEY, Z))
