"""What every quantizer promises (DESIGN section 3), on every quantizer.

All properties of an instance are read off a few compiled functions (`Case`), which are called with several
inputs: a new property is one more assertion on what they return.
"""

import doctest
import functools
import importlib
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxtok.quantize
from jaxtok.quantize.health import health
from tests.compiled import optimised
from tests.filled import filled, normal
from tests.quantize.zoo import QUANTIZERS, WIDTH

BATCH, PART, TOKENS = 8, 2, 6
Z = normal(BATCH, TOKENS, WIDTH)
KEYS = jax.random.split(jax.random.key(0), BATCH)
PARTS = [slice(i, i + PART) for i in range(0, BATCH, PART)]
MASK = np.array([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]], bool)  # of a micro-batch
# What padding may hold. "zeros" stands for what the other runs are compared with.
PADDING = {
    "zeros": 0.0,
    "other features": 100 * normal(PART, TOKENS, WIDTH, seed=5),
    "nan": np.nan,
    "infinity": np.inf,
    "1e30": 1e30,
}
PHASES = ("evaluation", "train")
# Entropies and moments of a batch are not averages of those of its parts.
OF_THE_BATCH = {"orthogonal", "entropy", "moments", "diversity", "batch_entropy", "kl"}

# One instance of every implementation path runs by default.
EVERY_TIME = {
    "binary",
    "gradient",
    "cosine",
    "revived by samples",
    "product",
    "residual shared",
    "residual lfq",
    "residual neural proposed",
    "grouped residual",
    "multi-scale by scale",
    "fsq symmetric",
    "fsp",
    "lfq",
    "bsq",
    "simvq",
    "fvq",
    "ibq",
    "gumbel",
    "random projection",
    "latent",
    "binary mapper",
    "dimension bins",
    "k-means",
}
# These take no branch that others do not take: "grouped residual" and "product" average without projections
# or affine maps, "rotation" and "cosine" project, "cvq product" and "affine product" have a book per slot.
REPEATED = {"ema", "projected", "projected ema", "cvq", "affine", "residual"}
# Under a mesh these differ: look-ups, searches, counts, samples and entropies over the devices' tokens.
ON_DEVICES = {
    "gradient",
    "revived by samples",
    "product",
    "residual shared",
    "multi-scale by scale",
    "lfq",
    "fsp",
    "simvq",
    "ibq",
    "latent",
}


class Case:
    """A quantizer, its variables, and what compiled functions make of them."""

    def __init__(self, name):
        self.quantizer = quantizer = QUANTIZERS[name]
        self.variables = consistent(quantizer, filled(quantizer, Z))
        self.params = self.variables.get("params", {})
        self.rest = {name: tree for name, tree in self.variables.items() if name != "params"}
        self.state = self.rest.get("quantizer", {})
        self.tokens = quantizer.layout.tokens if hasattr(quantizer, "layout") else TOKENS
        self.pools = hasattr(quantizer, "cell_mask")  # codes stand for several tokens
        self.update = jax.jit(quantizer.update)

    def apply(self, z, mask=None, **options):
        return self.quantizer.apply(self.variables, z, mask=mask, **options)

    def loss(self, params, z, keys, mask=None, weight=BATCH):
        """With the number of examples as the weight it adds up over examples, as far as the losses of the
        quantizer are means over tokens.
        """
        out, changed = self.quantizer.apply(
            {"params": params, **self.rest}, z, train=True, key=keys, mask=mask, mutable=["quantizer"]
        )
        value = jnp.sum(jnp.sin(out.values)) + weight * sum(out.losses.values())
        return value, {"train": out, "changed": changed}

    def step(self, loss, params, z, keys, mask=None):
        """A training pass and the gradients by parameters and features."""
        gradients, out = jax.grad(loss, (0, 1), has_aux=True)(params, z, keys, mask)
        return {**out, "gradients": gradients}

    @functools.cached_property
    def whole(self):
        """The batch without a mask."""

        @jax.jit
        def run(params, z, keys):
            evaluation = self.apply(z)
            found = {"evaluation": evaluation, "health": health(evaluation.statistics)}
            return {**self.step(self.loss, params, z, keys), **found}

        return jax.device_get(run(self.params, Z, KEYS))

    @functools.cached_property
    def _masked(self):
        @jax.jit
        def run(params, z, keys, mask):
            # What the backward pass needs is computed again: that must change nothing.
            out = self.step(jax.checkpoint(functools.partial(self.loss, weight=PART)), params, z, keys, mask)
            codes = self.apply(z, mask, method="encode")
            return {**out, "evaluation": self.apply(z, mask), "codes": codes}

        return lambda *inputs: jax.device_get(run(self.params, *inputs))

    @functools.cached_property
    def parts(self):
        """The micro-batches, with a mask that hides nothing."""
        return [self._masked(Z[part], KEYS[part], np.ones((PART, TOKENS), bool)) for part in PARTS]

    @functools.cached_property
    def padded(self):
        """The first micro-batch with padding, by what the padding holds."""
        fill = lambda padding: jnp.where(MASK[..., None], Z[:PART], padding)
        return {name: self._masked(fill(padding), KEYS[:PART], MASK) for name, padding in PADDING.items()}

    @functools.cached_property
    def nonfinite(self):
        """The first micro-batch with a NaN in a real token of its first example."""
        z = np.array(Z[:PART])
        z[0, 1, 0] = np.nan  # MASK says that this token is real
        return self._masked(jnp.asarray(z), KEYS[:PART], MASK)

    @functools.cached_property
    def coded(self):
        """Many features, near and far, those of drawn codes, and the latter rounded to bfloat16."""
        space, rows = self.quantizer.space, 1024
        z = normal(rows, TOKENS, WIDTH, seed=2) * jnp.geomspace(0.05, 20, rows)[:, None, None]
        drawn = np.random.default_rng(3).integers(0, space.levels, (rows, self.tokens, space.slots))

        @optimised  # last digits are compared
        def run(z, half, drawn):
            decode = lambda codes: self.quantizer.apply(self.variables, codes, method="decode")
            codes, out = self.apply(z, method="encode"), self.apply(z)
            found = {"codes": codes, "forward": (out.codes, out.values), "decoded": decode(codes)}
            found["of_half"] = self.apply(half, method="encode"), self.apply(half).values
            return {**found, "of_drawn": decode(drawn)}

        both = lambda z: run(z, z.astype(jnp.bfloat16), drawn.astype(np.int32))
        anywhere = both(z)
        exact = both(anywhere["of_drawn"])
        half = both(anywhere["of_drawn"].astype(jnp.bfloat16).astype(jnp.float32))
        return jax.device_get({"anywhere": anywhere, "exact": exact, "half": half})


def consistent(quantizer, variables):
    """Drawn state as a quantizer would have it: positive counts, sums that belong to the codes, true
    rotations.
    """

    def mend(path, leaf):
        name = path[-1].key
        if name in ("counts", "usage") or name.endswith("variance"):
            return 0.5 + jnp.abs(leaf)
        if name == "rotation":
            return jnp.asarray(np.linalg.qr(leaf)[0])
        return leaf

    return jax.tree_util.tree_map_with_path(mend, variables)


def parameter(name):
    marks = [] if name in EVERY_TIME else [pytest.mark.exhaustive if name in REPEATED else pytest.mark.slow]
    return pytest.param(name, marks=marks)


@pytest.fixture(scope="module", params=[parameter(name) for name in QUANTIZERS])
def case(request):
    return Case(request.param)


def close(a, b, atol=1e-5, message=""):
    assert jax.tree.structure(a) == jax.tree.structure(b), message
    compare = functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-5, err_msg=message)
    jax.tree.map(compare, a, b)


def test_encode_then_decode_is_the_forward_pass_bit_for_bit(case):
    for out in case.coded.values():
        np.testing.assert_array_equal(out["codes"], out["forward"][0])
        np.testing.assert_array_equal(out["decoded"], out["forward"][1])
        rows = len(out["codes"])
        assert out["codes"].shape == (rows, case.tokens, case.quantizer.space.slots)
        assert out["codes"].dtype == jnp.int32
        assert out["decoded"].shape == (rows, *Z.shape[1:]) and out["decoded"].dtype == jnp.float32
        case.quantizer.space.join(out["codes"])  # within the alphabet


def test_every_code_can_be_reached(case):
    if getattr(case.quantizer, "normalise_projected", False):
        pytest.skip("features lie on the sphere, and codes that were drawn, not trained, need not")
    codes = np.concatenate([case.coded[name]["codes"] for name in ("anywhere", "exact")])
    for slot, levels in enumerate(case.quantizer.space.levels):
        assert len(np.unique(codes[..., slot])) == levels, f"slot {slot}"


def test_features_in_half_precision_get_the_codes_of_their_float32_values(case):
    (codes, values), whole = case.coded["exact"]["of_half"], case.coded["half"]
    np.testing.assert_array_equal(codes, whole["codes"])
    np.testing.assert_array_equal(values, whole["forward"][1])
    assert values.dtype == jnp.float32


def test_a_forward_pass_changes_no_state(case):
    for out in (case.whole, *case.parts):
        changed = out["changed"].get("quantizer", case.state)
        jax.tree.map(np.testing.assert_array_equal, dict(changed), dict(case.state))


def test_losses_are_finite_scalars(case):
    for loss in jax.tree.leaves([case.whole[phase].losses for phase in PHASES]):
        assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)


@pytest.mark.parametrize("phase", PHASES)
def test_four_micro_batches_update_like_one_batch(case, phase):
    """The batch has no mask, and the micro-batches one that hides nothing."""
    whole, parts, key = case.whole[phase], [part[phase] for part in case.parts], jax.random.key(1)
    joined = lambda name: np.concatenate([getattr(part, name) for part in parts])
    np.testing.assert_array_equal(whole.codes, joined("codes"))
    close(whole.values, joined("values"))
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(part.statistics for part in parts))
    once, four = (case.update(case.state, s, key) for s in (whole.statistics, summed))
    assert jax.tree.structure(once) == jax.tree.structure(case.state)
    close(once, four)
    close(whole.statistics, summed, atol=1e-3)
    for name, loss in whole.losses.items():
        if name not in OF_THE_BATCH:
            mean = np.mean([part.losses[name] for part in parts])
            np.testing.assert_allclose(loss, mean, atol=1e-5, err_msg=name)


def test_health_follows_from_the_statistics(case):
    found = case.whole["health"]
    assert 0 <= found["bits_per_token"] <= case.quantizer.space.bits + 1e-4
    assert all(np.isfinite(value) and value >= 0 for value in found.values())


def test_masked_tokens_have_no_effect(case):
    coded = np.asarray(case.quantizer.cell_mask(jnp.asarray(MASK))) if case.pools else MASK
    expected = case.padded["zeros"]
    for name, out in case.padded.items():
        for phase in PHASES:
            np.testing.assert_array_equal(out[phase].codes, expected[phase].codes, err_msg=name)
            close(out[phase], expected[phase], message=f"{phase} with {name}")
            assert not out[phase].codes[~coded].any() and not out[phase].values[~MASK].any(), name
        np.testing.assert_array_equal(out["codes"], out["evaluation"].codes, err_msg=name)
        close(out["gradients"], expected["gradients"], message=f"gradients with {name}")
        assert not out["gradients"][1][~MASK].any(), name
    if not case.pools:
        whole = case.whole["evaluation"].codes[:PART]
        np.testing.assert_array_equal(whole[MASK], expected["evaluation"].codes[MASK])


def test_features_that_are_not_finite_make_values_that_are_not(case):
    """The nearest code of NaN is some code; what is made of it is found by the next check."""
    for phase in PHASES:
        values = case.nonfinite[phase].values
        assert not np.all(np.isfinite(values[0])), phase
    assert np.all(np.isfinite(case.nonfinite["evaluation"].values[1]))  # another example


def test_the_gradient_reaches_the_features_and_the_parameters(case):
    whole, parts = case.whole["gradients"], [part["gradients"] for part in case.parts]
    for gradient in jax.tree.leaves((whole, parts)):
        assert np.isfinite(gradient).all()
    for gradient in jax.tree.leaves(whole):
        assert np.any(gradient)
    if not OF_THE_BATCH & set(case.whole["train"].losses):
        # Those of the parts are rematerialised.
        by_params, by_z = (
            jax.tree.map(lambda *leaves: sum(leaves), *(part[0] for part in parts)),
            np.concatenate([part[1] for part in parts]),
        )
        close(whole, (by_params, by_z), atol=1e-4)


@pytest.mark.slow  # a compilation more per quantizer
def test_it_can_be_mapped_and_scanned(case):
    @jax.jit
    def both(z):
        one = lambda z: case.apply(z[None]).values[0]
        return jax.vmap(one)(z), jax.lax.scan(lambda carry, z: (carry, one(z)), 0, z)[1]

    mapped, scanned = both(Z)
    close(mapped, case.whole["evaluation"].values)
    close(scanned, case.whole["evaluation"].values)


def on_devices(name):
    return pytest.param(name, marks=pytest.mark.slow if name in ON_DEVICES else pytest.mark.exhaustive)


@pytest.mark.parametrize("name", [on_devices(name) for name in QUANTIZERS])
def test_a_training_step_on_eight_devices_is_the_step_on_one(name):
    case, key, mask = Case(name), jax.random.key(0), jnp.ones((BATCH, TOKENS), bool).at[3, 2:].set(False)

    def step(loss, params, z, keys, mask):
        out = case.step(loss, params, z, keys, mask)
        statistics = out["train"].statistics
        return {**out, "state": case.quantizer.update(case.state, statistics, key)}

    loss = functools.partial(case.loss, weight=1)
    one = jax.jit(functools.partial(step, loss))(case.params, Z, KEYS, mask)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        # Rematerialised, beside.
        run = jax.jit(functools.partial(step, jax.checkpoint(loss)))
        many = run(case.params, jax.device_put(Z, rows), KEYS, jax.device_put(mask, rows))
    np.testing.assert_array_equal(one["train"].codes, many["train"].codes)
    close(one["train"].losses, many["train"].losses)
    close(one["gradients"], many["gradients"])
    close(one["state"], many["state"])


MODULES = [f"jaxtok.quantize.{module.name}" for module in pkgutil.iter_modules(jaxtok.quantize.__path__)]


def compiled(method):
    """A module's `init` or `apply` as one compiled function: operations one by one take longer to compile."""

    def call(self, *args, **options):
        leaves, tree = jax.tree.flatten((args, options))
        arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray) else None for leaf in leaves]

        @jax.jit
        def run(arrays):
            kept = [b if a is None else a for a, b in zip(arrays, leaves, strict=True)]
            args, options = jax.tree.unflatten(tree, kept)
            return method(self, *args, **options)

        return run(arrays)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_run(name, monkeypatch):
    module = importlib.import_module(name)
    for method in ("init", "apply"):
        monkeypatch.setattr(nn.Module, method, compiled(getattr(nn.Module, method)))
    result = doctest.testmod(module)
    assert not result.failed
    quantizers = [v for v in vars(module).values() if hasattr(v, "space") and v.__module__ == name]
    wanted = quantizers or name.endswith(".entropy")
    assert result.attempted or not wanted, f"{name} has a quantizer and no example"


def test_the_named_instances_exist():
    assert not (EVERY_TIME | REPEATED | ON_DEVICES) - set(QUANTIZERS)
    assert not EVERY_TIME & REPEATED
