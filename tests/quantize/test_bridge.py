"""Beside what `test_simvq` tests of both kinds of mapped codebooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.bridge import FVQ, Bridge
from tests.filled import filled, normal
from tests.quantize.golden import close

Z = normal(4, 6, 8)


def test_a_bridge_depends_on_every_code():
    bridge = Bridge(patch=4, hidden=8, heads=2)
    codebook = normal(16, 8)
    variables = filled(bridge, codebook)
    jacobian = jax.jit(jax.jacrev(lambda c: bridge.apply(variables, c)))(codebook)
    assert np.all(np.abs(jacobian).max(axis=(1, 3)) > 0)


def test_patches_must_divide_the_codes():
    with pytest.raises(ValueError, match="patch=5"):
        jax.eval_shape(lambda: FVQ(codes=16, width=8, patch=5).init(jax.random.key(0), Z))


def test_bridges_act_on_patches_alike():
    """Without positions, exchanging two patches of codes exchanges what comes out."""
    bridge, codebook = Bridge(patch=4, hidden=8, heads=2), normal(16, 8)
    params = filled(bridge, codebook)["params"]
    params = {**params, "positions": jnp.zeros_like(params["positions"])}
    order = jnp.array([*range(8, 12), *range(4, 8), *range(4), *range(12, 16)])
    run = jax.jit(lambda c: bridge.apply({"params": params}, c))
    close(run(codebook[order]), run(codebook)[order])
