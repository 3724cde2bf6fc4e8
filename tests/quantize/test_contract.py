"""What every quantizer promises (DESIGN section 3), on every quantizer."""

import doctest
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxtok.quantize
from jaxtok.quantize.health import health
from tests.filled import filled, normal
from tests.quantize.zoo import QUANTIZERS, WIDTH

BATCH, TOKENS = 4, 6
Z = normal(BATCH, TOKENS, WIDTH)
MASK = jnp.asarray(np.random.default_rng(1).random((BATCH, TOKENS)) < 0.7).at[0, 0].set(False)
KEY = jax.random.key(0)
# One of each family; the others take as long to compile again and are slow.
EVERY_TIME = {
    "binary",
    "gradient",
    "cosine",
    "rotation",
    "revived by samples",
    "product",
    "residual shared",
    "residual lfq",
    "grouped residual",
    "multi-scale by scale",
    "fsq symmetric",
    "fsp",
    "lfq",
    "bsq",
    "simvq",
    "ibq",
    "latent",
    "k-means",
}
# Entropies and moments of a batch are not averages of those of its parts.
OF_THE_BATCH = {"orthogonal", "entropy", "moments", "diversity", "batch_entropy", "kl"}


def parameter(name):
    return name if name in EVERY_TIME else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[parameter(name) for name in QUANTIZERS])
def case(request):
    """A quantizer, its variables and one compiled function of it."""
    quantizer = QUANTIZERS[request.param]
    variables = consistent(quantizer, filled(quantizer, Z))

    @jax.jit
    def run(variables, z, keys, mask=None):
        train, changed = quantizer.apply(variables, z, train=True, key=keys, mask=mask, mutable=["quantizer"])
        codes = quantizer.apply(variables, z, mask=mask, method="encode")
        return {
            "evaluation": quantizer.apply(variables, z, mask=mask),
            "train": train,
            "changed": changed,
            "codes": codes,
            "decoded": quantizer.apply(variables, codes, method="decode"),
        }

    keys = jax.random.split(KEY, BATCH)
    return quantizer, variables, run, run(variables, Z, keys), keys


def consistent(quantizer, variables):
    """Drawn state as a quantizer would have it: positive counts, sums that belong to the codes, true
    rotations.
    """

    def mend(path, leaf):
        name = path[-1].key
        if name == "counts" or name.endswith("variance"):
            return 0.5 + jnp.abs(leaf)
        if name == "rotation":
            return jnp.linalg.qr(leaf)[0]
        return leaf

    return jax.tree_util.tree_map_with_path(mend, variables)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), a, b)


def test_encode_then_decode_is_the_forward_pass_bit_for_bit(case):
    quantizer, _, _, out, _ = case
    np.testing.assert_array_equal(out["codes"], out["evaluation"].codes)
    np.testing.assert_array_equal(out["decoded"], out["evaluation"].values)
    tokens = quantizer.layout.tokens if hasattr(quantizer, "layout") else TOKENS
    assert out["codes"].shape == (BATCH, tokens, quantizer.space.slots) and out["codes"].dtype == jnp.int32
    assert out["decoded"].shape == Z.shape and out["decoded"].dtype == jnp.float32
    quantizer.space.join(np.asarray(out["codes"]))  # within the alphabet


def test_every_code_can_be_reached(case):
    quantizer, variables, *_ = case
    if getattr(quantizer, "normalise_projected", False):
        pytest.skip("features lie on the sphere, and codes that were drawn, not trained, need not")
    space, rows = quantizer.space, 1024
    tokens = quantizer.layout.tokens if hasattr(quantizer, "layout") else TOKENS
    anywhere = normal(rows, TOKENS, WIDTH, seed=2) * jnp.geomspace(0.05, 20, rows)[:, None, None]
    drawn = np.random.default_rng(3).integers(0, space.levels, (rows, tokens, space.slots))

    @jax.jit
    def reached(z, codes):
        z = jnp.concatenate([z, quantizer.apply(variables, codes, method="decode")])
        return quantizer.apply(variables, z, method="encode")

    codes = np.asarray(reached(anywhere, drawn.astype(np.int32)))
    for slot, levels in enumerate(space.levels):
        assert len(np.unique(codes[..., slot])) == levels, f"slot {slot}"


def test_features_in_half_precision_get_the_codes_of_their_float32_values(case):
    _, variables, run, _, keys = case
    half = Z.astype(jnp.bfloat16)
    a, b = run(variables, half, keys), run(variables, half.astype(jnp.float32), keys)
    np.testing.assert_array_equal(a["codes"], b["codes"])
    np.testing.assert_array_equal(a["evaluation"].values, b["evaluation"].values)
    assert a["evaluation"].values.dtype == jnp.float32


def test_a_forward_pass_changes_no_state(case):
    _, variables, _, out, _ = case
    state = variables.get("quantizer", {})
    jax.tree.map(np.testing.assert_array_equal, dict(out["changed"].get("quantizer", state)), dict(state))


def test_losses_are_finite_scalars(case):
    for loss in jax.tree.leaves((case[3]["train"].losses, case[3]["evaluation"].losses)):
        assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)


def test_four_micro_batches_update_like_one_batch(case):
    quantizer, variables, run, out, keys = case
    rows = [run(variables, Z[row : row + 1], keys[row : row + 1]) for row in range(BATCH)]
    state, key = variables.get("quantizer", {}), jax.random.key(1)
    update = jax.jit(quantizer.update)
    for phase in ("evaluation", "train"):
        parts = [row[phase] for row in rows]
        summed = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), [p.statistics for p in parts])
        once, four = update(state, out[phase].statistics, key), update(state, summed, key)
        assert jax.tree.structure(once) == jax.tree.structure(state)
        close(once, four)
        close(out[phase].statistics, summed, atol=1e-3)
        for name, whole in out[phase].losses.items():
            if name not in OF_THE_BATCH:
                np.testing.assert_allclose(whole, np.mean([p.losses[name] for p in parts]), atol=1e-5)


def test_health_follows_from_the_statistics(case):
    quantizer, _, _, out, _ = case
    found = health(out["evaluation"].statistics)
    assert 0 <= found["bits_per_token"] <= quantizer.space.bits + 1e-4
    assert all(np.isfinite(value) and value >= 0 for value in found.values())


def test_masked_tokens_have_no_effect(case):
    quantizer, variables, run, _, keys = case
    out = run(variables, Z, keys, MASK)
    other = run(variables, jnp.where(MASK[..., None], Z, 100 * normal(*Z.shape, seed=5)), keys, MASK)
    real = np.asarray(MASK)
    pools = hasattr(quantizer, "cell_mask")  # codes stand for several tokens
    coded = np.asarray(quantizer.cell_mask(MASK)) if pools else real
    for phase in ("evaluation", "train"):
        a, b = out[phase], other[phase]
        np.testing.assert_array_equal(a.codes, b.codes)
        close(a.values, b.values)
        close(a.losses, b.losses)
        close(a.statistics, b.statistics)
        assert not np.asarray(a.codes)[~coded].any() and not np.asarray(a.values)[~real].any()
    np.testing.assert_array_equal(out["codes"], out["evaluation"].codes)
    if not pools:
        whole = run(variables, Z, keys)["evaluation"]
        np.testing.assert_array_equal(
            np.asarray(whole.codes)[real], np.asarray(out["evaluation"].codes)[real]
        )


def test_the_gradient_reaches_the_features_and_the_parameters(case):
    quantizer, variables, _, _, keys = case
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, z):
        out = quantizer.apply({"params": params, **rest}, z, train=True, key=keys)
        return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values())

    @jax.jit
    def gradients(params, z):
        plain = jax.grad(loss, argnums=(0, 1))(params, z)
        return plain, jax.grad(jax.checkpoint(loss), argnums=(0, 1))(params, z)

    plain, rematerialised = gradients(variables.get("params", {}), Z)
    for gradient in jax.tree.leaves(plain):
        assert np.isfinite(gradient).all() and np.any(gradient)
    close(plain, rematerialised)


@pytest.mark.slow  # a compilation more per quantizer
def test_it_can_be_mapped_and_scanned(case):
    quantizer, variables, _, out, _ = case

    @jax.jit
    def both(z):
        one = lambda z: quantizer.apply(variables, z[None]).values[0]
        return jax.vmap(one)(z), jax.lax.scan(lambda carry, z: (carry, one(z)), 0, z)[1]

    mapped, scanned = both(Z)
    close(mapped, out["evaluation"].values)
    close(scanned, out["evaluation"].values)


@pytest.mark.slow  # a compilation for eight devices per quantizer
def test_a_training_step_on_eight_devices_is_the_step_on_one(case):
    quantizer, variables, _, _, _ = case
    z, mask = normal(8, TOKENS, WIDTH, seed=3), jnp.ones((8, TOKENS), bool).at[3, 2:].set(False)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    keys = jax.random.split(KEY, 8)

    @jax.jit
    def step(params, z, mask, keys):
        def loss(params, z):
            out = quantizer.apply({"params": params, **rest}, z, train=True, key=keys, mask=mask)
            return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values()), out

        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, z)
        return (
            out.codes,
            out.losses,
            gradients,
            quantizer.update(rest.get("quantizer", {}), out.statistics, KEY),
        )

    params = variables.get("params", {})
    one = step(params, z, mask, keys)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        many = step(params, jax.device_put(z, rows), jax.device_put(mask, rows), keys)
    np.testing.assert_array_equal(one[0], many[0])
    close(one[1:], many[1:])


MODULES = [f"jaxtok.quantize.{module.name}" for module in pkgutil.iter_modules(jaxtok.quantize.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert not result.failed
    quantizers = [v for v in vars(module).values() if hasattr(v, "space") and v.__module__ == name]
    assert result.attempted or not quantizers, f"{name} has a quantizer and no example"


def test_the_instances_of_every_run_exist():
    assert not EVERY_TIME - set(QUANTIZERS)
