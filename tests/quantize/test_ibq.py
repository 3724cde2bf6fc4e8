import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantize.ibq import IBQ
from jaxtok.quantize.soft_assignment import assignment_entropies
from jaxtok.weights import read_tensors
from tests.filled import normal
from tests.quantize.golden import alike, close

K, D = 11, 5
E = normal(K, D, seed=1)


def test_recorded_quantizer(shared):
    tensors, _ = read_tensors(shared("goldens/ibq.safetensors"))
    io = {k.removeprefix("io."): v for k, v in tensors.items() if k.startswith("io.")}
    tokens = lambda x: np.moveaxis(x, 1, -1).reshape(x.shape[0], -1, x.shape[1])
    quantizer = IBQ(codes=32, width=16)
    params = {"codebook": jnp.asarray(tensors["model.quantize.embedding.weight"])}
    z, target = tokens(io["pre_quant"]), tokens(io["grad_target"])

    def loss(params, z):
        out = quantizer.apply({"params": params}, z, train=True)
        return sum(out.losses.values()) + jnp.mean(jnp.square(out.values - target)), out

    @jax.jit
    def run(params, z):
        entropies = assignment_entropies(z, params["codebook"], 0.01)
        return jax.grad(loss, (0, 1), has_aux=True)(params, z), entropies

    ((by_params, by_z), out), (each, mean) = jax.device_get(run(params, z))
    np.testing.assert_array_equal(out.codes[..., 0], io["codes"].reshape(z.shape[:2]))
    close(out.values, tokens(io["quantised"]))
    close(sum(out.losses[n] for n in ("index", "commitment", "codebook")), io["quant_loss"])
    close(out.losses["entropy"], 0.05 * io["entropy_loss"])
    close(each, io["sample_entropy"])
    close(mean, io["average_entropy"])
    alike(by_z, tokens(io["grad_pre_quant"]))
    alike(by_params["codebook"], io["grad_codebook"])


def test_masked_tokens_have_no_effect():
    quantizer = IBQ(codes=K, width=D)
    z, mask = normal(3, 4, D), jnp.arange(4) < jnp.array([4, 2, 1])[:, None]

    def loss(params, z):
        out = quantizer.apply({"params": params}, z, mask=mask)
        return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values()), out

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    a, b = run({"codebook": E}, z), run({"codebook": E}, jnp.where(mask[..., None], z, 9.0))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.any(a[0][1][~mask]) and not np.any(a[1].values[~mask])


def test_losses_by_hand():
    quantizer = IBQ(K, D, index_weight=2.0, commitment=3.0, codebook_weight=5.0, entropy_weight=0.0)
    z = normal(2, 4, D)
    out = jax.device_get(jax.jit(quantizer.apply)({"params": {"codebook": E}}, z))
    q = np.asarray(E)[np.argmax(np.asarray(z) @ np.asarray(E).T, -1)]
    np.testing.assert_array_equal(out.values, q)  # the forward pass is a hard look-up
    error = np.mean(np.square(np.asarray(z) - q))
    assert set(out.losses) == {"index", "commitment", "codebook"}
    jax.tree.map(close, out.losses, {"index": 2 * error, "commitment": 3 * error, "codebook": 5 * error})
