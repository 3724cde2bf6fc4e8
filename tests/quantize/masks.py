"""That what a masked token holds has no effect, and that real ones are as without the others."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.filled import filled, normal

Z = normal(4, 6, 8)
MASK = jnp.asarray(np.arange(24).reshape(4, 6) % 5 > 1)


def check_masked_tokens(module) -> None:
    """Padding of NaN against other padding, against no mask where all is real, and its gradient."""
    variables = filled(module, Z)

    @jax.jit
    def run(z, mask):
        def loss(z):
            out = module.apply(variables, z, train=True, mask=mask)
            return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values()), out

        gradient, out = jax.grad(loss, has_aux=True)(z)
        return out, module.apply(variables, z, mask, method="encode"), gradient

    real = np.asarray(MASK)
    out, codes, _ = jax.device_get(run(Z, MASK))
    again, _, gradient = jax.device_get(run(jnp.where(MASK[..., None], Z, jnp.nan), MASK))
    alone = jax.jit(lambda z: module.apply(variables, z, train=True))(np.asarray(Z)[real][None])
    assert not np.any(out.values[~real]) and not np.any(out.codes[~real])
    np.testing.assert_array_equal(codes, out.codes)
    jax.tree.map(np.testing.assert_array_equal, again, out)
    np.testing.assert_array_equal(out.codes[real], alone.codes[0])
    for ours, theirs in ((out.losses, alone.losses), (out.statistics, alone.statistics)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)
    assert not np.any(gradient[~real]) and np.isfinite(gradient[real]).all() and np.any(gradient[real])
