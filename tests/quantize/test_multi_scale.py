"""Identities of multi-scale residual quantizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtok.quantize.multi_scale import MultiScaleQuantizer, multi_scale_vq
from jaxtok.quantize.pyramid import Pyramid, phi_of_scale
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.quantizers.multi_scale import component
from tests.filled import filled, normal

KEY = jax.random.key(0)
SCALES = (1, 2, (2, 3), (4, 6))
Z = normal(3, 4, 6, 5)
MASK = jnp.asarray(np.random.default_rng(3).random((3, 4, 6)) < 0.5).at[0].set(False)


@functools.cache
def vq(**options):
    """A quantizer with its variables."""
    module = multi_scale_vq(SCALES, 7, 5, **options)
    variables = filled(module, Z)
    if "quantizer" in variables:
        positive = lambda path, leaf: jnp.abs(leaf) + 0.1 if path[-1].key == "counts" else leaf
        variables["quantizer"] = jax.tree_util.tree_map_with_path(positive, variables["quantizer"])
    return module, variables


@functools.cache
def ran(masked=False, **options):
    """What it makes of Z: everything in one compilation."""
    module, variables = vq(**options)

    def run(variables, z, mask):
        codes = module.apply(variables, z, mask, method="encode")
        apply = lambda method: module.apply(variables, codes, mask, method=method)
        out = module.apply(variables, z, mask=mask)
        return out, codes, apply("partial_sums"), apply("next_inputs"), apply("decode")

    return jax.device_get(jax.jit(run)(variables, Z, MASK if masked else None))


def test_the_scales_add_up_and_prefixes_are_partial_sums():
    module, variables = vq()
    out, codes, sums, inputs, decoded = ran()
    np.testing.assert_array_equal(out.values, sums[-1])
    np.testing.assert_array_equal(out.values, decoded)
    np.testing.assert_array_equal(out.codes, codes)
    book = variables["params"]["quantizers_0"]["codebook"]
    up = lambda module, cells, i: module.pyramid.up(cells, i)

    @jax.jit
    def by_scale(variables, codes):
        total, out = jnp.zeros_like(Z), []
        for i in range(module.depths):
            cells = module.layout.scale(i)
            total = total + module.apply(variables, book[codes[:, cells, 0]], i, method=up)
            apply = lambda method, prefix=codes[:, : cells.stop]: module.apply(
                variables, prefix, method=method
            )
            pooled = module.pyramid.down(total, i + 1)[0] if i + 1 < module.depths else None
            out.append((total, apply("decode"), apply("next_inputs"), pooled))
        return out

    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    for i, (total, coarse, read, pooled) in enumerate(jax.device_get(by_scale(variables, codes))):
        close(sums[i], total)
        close(coarse, total)
        close(read, np.asarray(inputs)[:, : read.shape[1]])
        if pooled is not None:
            close(read[:, -pooled.shape[1] :], pooled)


@pytest.mark.parametrize("objective, routing", [("sums", "straight_through"), ("scales", "rotation")])
def test_one_scale_of_full_size_is_the_plain_quantizer(objective, routing):
    options = {"learning": "ema", "routing": routing}
    plain = VectorQuantizer(7, 5, **options)
    module = multi_scale_vq(((4, 6),), 7, 5, phis=0, objective=objective, **options)
    inner = filled(plain, Z.reshape(3, 24, 5))["quantizer"]
    inner["counts"] = jnp.abs(inner["counts"]) + 0.1

    def one(z, mask):
        flat = z.reshape(3, 24, 5), mask.reshape(3, 24)
        return plain.apply({"quantizer": inner}, flat[0], train=True, mask=flat[1])

    def other(z, mask):
        return module.apply({"quantizer": {"quantizers_0": inner}}, z, train=True, mask=mask)

    @jax.jit
    def both(z, mask):
        def loss(z, run):
            out = run(z, mask)
            return jnp.sum(jnp.sin(out.values)), out

        gradients, outs = zip(*(jax.grad(loss, has_aux=True)(z, run) for run in (one, other)), strict=True)
        new = module.update({"quantizers_0": inner}, outs[1].statistics, KEY)["quantizers_0"]
        return outs, gradients, (plain.update(inner, outs[0].statistics, KEY), new)

    (a, b), gradients, states = jax.device_get(both(Z, MASK))
    np.testing.assert_array_equal(a.values, b.values.reshape(3, 24, 5))
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_allclose(a.losses["commitment"], b.losses["commitment"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)
    np.testing.assert_allclose(*gradients, atol=1e-6)


def test_without_its_ratio_phi_is_the_identity():
    cells, options = normal(2, 6, 5), {"scales": SCALES, "width": 5}
    module = Pyramid(**options, residual_ratio=0.0)
    variables = filled(module, cells, 2, method="up")
    assert set(variables["params"]) == {"phi_2"}
    plain, full = Pyramid(**options, phis=0), normal(2, 24, 5)

    @jax.jit
    def run(cells, full):
        up = functools.partial(plain.apply, {}, method="up")
        return module.apply(variables, cells, 2, method="up"), up(cells, 2), up(full, 3)

    with_phi, without, finest = run(cells, full)
    np.testing.assert_array_equal(with_phi, without)
    np.testing.assert_array_equal(finest, full.reshape(2, 4, 6, 5))  # which is not interpolated


def test_the_convolutions_of_var():
    assert phi_of_scale(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert phi_of_scale(5, 5) == (0, 1, 2, 3, 4) and set(phi_of_scale(7, 1)) == {0}


def test_every_code_can_be_the_coarsest():
    module, _ = vq(phis=0)
    variables = {"params": {"quantizers_0": {"codebook": normal(7, 5, seed=2)}}}
    flat = jnp.broadcast_to(variables["params"]["quantizers_0"]["codebook"][:, None, None], (7, 4, 6, 5))
    codes = jax.jit(functools.partial(module.apply, method="encode"))(variables, flat)
    np.testing.assert_array_equal(np.asarray(codes)[:, 0, 0], np.arange(7))


def test_the_gradient_passes_the_whole_or_every_scale():
    def gradient(**options):
        module, variables = vq(**options)
        return jax.jit(jax.grad(lambda z: jnp.vdot(module.apply(variables, z).values, Z)))(Z)

    np.testing.assert_allclose(gradient(), Z, atol=1e-6)
    assert not np.allclose(gradient(objective="scales"), Z, atol=1e-2)
    # Without maps between them, what the scales add telescopes, as far as the finest one sees.
    np.testing.assert_allclose(gradient(objective="scales", phis=0), Z, atol=1e-5)


def test_losses_are_means_over_scales():
    module, variables = vq()
    out, _, sums, _, _ = ran()
    errors = np.mean(np.square(np.asarray(Z) - sums), axis=(1, 2, 3, 4))
    np.testing.assert_allclose(out.losses["codebook"], errors.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.losses["commitment"], module.commitment * errors.mean(), rtol=1e-5)
    by_scale, variables = vq(objective="scales", commitment=0.5)

    @jax.jit
    def run(variables, z):
        out = by_scale.apply(variables, z)
        parts = by_scale.apply(variables, out.codes, method="partial_sums")
        left = [z, *(z - total for total in parts[:-1])]
        return out, [module.pyramid.down(residual, i)[0] for i, residual in enumerate(left)]

    out, pooled = jax.device_get(run(variables, Z))
    book, expected = np.asarray(variables["params"]["quantizers_0"]["codebook"]), 0.0
    for i, cells in enumerate(pooled):
        chosen = book[out.codes[:, module.layout.scale(i), 0]]
        expected += 0.5 * np.mean(np.square(cells - chosen)) / module.depths
    np.testing.assert_allclose(out.losses["commitment"], expected, rtol=1e-5)


def test_a_shared_codebook_steps_once_per_scale():
    module, variables = vq(learning="ema", decay=0.5)
    out = ran(learning="ema", decay=0.5)[0]
    parts = [part["counts"] for part in out.statistics["scales"]]
    np.testing.assert_array_equal([part.sum() for part in parts], [3, 12, 18, 72])
    np.testing.assert_array_equal(out.statistics["counts"], sum(parts))
    counts = variables["quantizer"]["quantizers_0"]["counts"]
    for part in parts:
        counts = 0.5 * counts + 0.5 * part
    new = jax.jit(lambda s: module.update(variables["quantizer"], s, KEY))(out.statistics)
    np.testing.assert_allclose(new["quantizers_0"]["counts"], counts, rtol=1e-6)


def test_codebooks_of_their_own():
    module, variables = vq(shared=False)
    codes = ran(shared=False)[1]
    assert set(variables["params"]) == {"pyramid", *(f"quantizers_{i}" for i in range(4))}
    first = np.asarray(variables["params"]["quantizers_0"]["codebook"])
    distances = np.sum(np.square(np.asarray(Z).mean((1, 2))[:, None] - first), axis=-1)
    np.testing.assert_array_equal(codes[:, 0, 0], distances.argmin(1))
    changed = jax.tree.map(lambda leaf: leaf, variables)
    changed["params"]["quantizers_3"]["codebook"] = first  # only the last scale looks there
    others = jax.jit(functools.partial(module.apply, method="encode"))(changed, Z)
    codes, others = np.asarray(codes), np.asarray(others)
    np.testing.assert_array_equal(codes[:, :11], others[:, :11])
    assert (codes[:, 11:] != others[:, 11:]).any()


def test_codes_keep_their_own_length():
    module, variables = vq(metric="cosine", phis=0, own_length=True)
    codes = ran(metric="cosine", phis=0, own_length=True)[1]
    book = variables["params"]["quantizers_0"]["codebook"]
    unit_length = vq(metric="cosine", phis=0)[0]
    decode = lambda module: jax.jit(functools.partial(module.apply, method="decode"))
    coarsest, unit = (np.asarray(decode(m)(variables, codes[:, :1])) for m in (module, unit_length))
    np.testing.assert_allclose(coarsest[:, 0, 0], book[codes[:, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("objective", ["sums", pytest.param("scales", marks=pytest.mark.slow)])
def test_dropped_scales_leave_no_trace(objective):
    options = {"objective": objective, "learning": "ema"}
    whole, variables = vq(**options)
    module, keys = whole.clone(dropout=0.7, at_least=2), jax.random.split(jax.random.key(12), 3)
    kept = jax.jit(lambda keys: module.draw_kept(keys, 3))(keys)
    assert sorted(set(np.asarray(kept).tolist())) == [2, 3, 4]
    run = jax.jit(lambda z, keys, mask: module.apply(variables, z, train=True, key=keys, mask=mask))
    mask = MASK.at[0].set(True)
    out = jax.device_get(run(Z, keys, mask))

    @jax.jit
    def others(codes, mask, kept):
        full = module.apply(variables, Z, mask, method="encode")
        sums = module.apply(variables, full, mask, method="partial_sums")
        decoded = module.apply(variables, codes, mask, kept, method="decode")
        return full, sums, decoded, module.cell_mask(mask, kept)

    codes, sums, decoded, there = jax.device_get(others(out.codes, mask, kept))
    np.testing.assert_array_equal(out.values, decoded)
    np.testing.assert_array_equal(out.codes[..., 0], np.where(there, codes[..., 0], 0))
    counts = [part["counts"].sum() for part in out.statistics["scales"]]
    np.testing.assert_array_equal(counts, [there[:, module.layout.scale(i)].sum() for i in range(4)])
    for row, number in enumerate(np.asarray(kept)):
        np.testing.assert_allclose(out.values[row], sums[number - 1, row], atol=1e-6)
    if objective == "sums":
        error = np.sum(np.square(np.where(np.asarray(mask)[..., None], Z - sums, 0)), axis=(2, 3, 4))
        left = np.sum(error * (np.arange(4)[:, None] < np.asarray(kept))) / (5 * np.sum(mask)) / 4
        np.testing.assert_allclose(out.losses["codebook"], left, rtol=1e-5)


def test_scales_are_dropped_as_often_as_asked():
    module = multi_scale_vq(SCALES, 7, 5, dropout=0.5, at_least=2)
    kept = np.bincount(jax.jit(lambda key: module.draw_kept(key, 4000))(KEY), minlength=5) / 4000
    np.testing.assert_allclose(kept, [0, 0, 0.25, 0.25, 0.5], atol=0.03)
    with pytest.raises(ValueError, match="needs a key"):
        jax.eval_shape(lambda: module.apply(vq()[1], Z, train=True))
    fails("at_least=4 in 1 .. 3", dropout=0.5, at_least=4)
    fails("dropout=1.5", dropout=1.5)
    fails("own_length=True needs", own_length=True, code_width=3)


def test_grids_of_one_and_three_axes():
    for axes, shape in ((1, (9,)), (3, (2, 3, 4))):
        module = multi_scale_vq((1, 2, shape), 7, 5, axes=axes, phis=1)
        z = normal(2, *shape, 5)
        variables = filled(module, z)
        assert variables["params"]["pyramid"]["phi_0"]["kernel"].shape == (3,) * axes + (5, 5)
        out = jax.jit(module.apply)(variables, z)
        assert out.values.shape == z.shape and out.codes.shape == (2, module.layout.tokens, 1)
        assert module.layout.tokens == 1 + 2**axes + np.prod(shape)


def test_a_grid_may_be_finer_than_its_finest_scale():
    module = multi_scale_vq((1, 2), 7, 5, grid=(4, 6))
    variables = filled(module, Z)
    out = jax.jit(module.apply)(variables, Z)
    assert out.values.shape == Z.shape and out.codes.shape == (3, 5, 1)


@functools.cache
def masked_run():
    module, variables = vq(objective="scales", learning="ema", interpolation="linear")

    @jax.jit
    def run(z, mask):
        out = module.apply(variables, z, train=True, mask=mask)
        codes = module.apply(variables, z, mask, method="encode")
        return out, codes, module.apply(variables, codes, mask, method="decode"), module.cell_mask(mask)

    return run


@settings(max_examples=15)
@given(bits=st.integers(0, 2**24 - 1), value=st.sampled_from([np.nan, np.inf, 1e6]))
def test_masked_features_have_no_effect(bits, value):
    run = lambda z, mask: jax.device_get(masked_run()(z, mask))
    mask = np.ones((3, 4, 6), bool)
    mask[0] = ((bits >> np.arange(24)) & 1).reshape(4, 6)
    hidden = np.where(mask[..., None], Z, np.float32(value))
    out, codes, decoded, cells = run(hidden, mask)
    other = run(Z, mask)[0]
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.values, decoded)
    assert not out.values[~mask].any() and not out.codes[~cells].any()
    assert cells[0, 0] == bool(bits) and cells[1:].all()
    np.testing.assert_array_equal(out.statistics["counts"].sum(), cells.sum())
    whole = run(Z, np.ones_like(mask))[0]
    np.testing.assert_allclose(out.values[1:], whole.values[1:], atol=1e-6)  # the other examples do not care


def test_a_cell_codes_the_mean_of_its_real_features():
    _, variables = vq()
    codes = ran(masked=True)[1]
    book = np.asarray(variables["params"]["quantizers_0"]["codebook"])
    for row in (1, 2):
        mean = np.asarray(Z)[row][np.asarray(MASK[row])].mean(axis=0)
        assert codes[row, 0, 0] == np.argmin(np.sum(np.square(book - mean), axis=-1))


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_k_means_starts_where_the_features_are(shared):
    module, variables = vq(learning="ema", shared=shared, phis=0)
    hidden = jnp.where(MASK[..., None], Z, jnp.nan)

    @jax.jit
    def start(variables, z, mask):
        state = module.apply(variables, variables["quantizer"], z, KEY, mask, method="initialise")
        codes = module.apply({"quantizer": state}, z, mask, method="encode")
        return state, module.apply({"quantizer": state}, codes, mask, method="partial_sums")

    assert jax.tree.structure(start(variables, Z, None)[0]) == jax.tree.structure(variables["quantizer"])
    state, sums = start(variables, hidden, MASK)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    error = lambda total: float(np.sum(np.square(np.where(np.asarray(MASK)[..., None], Z - total, 0))))
    before = error(ran(True, learning="ema", shared=shared, phis=0)[-1])
    after = [error(total) for total in sums]
    assert after[-1] < 0.6 * before
    if not shared:  # each scale on what the ones before leave: it can only get better
        assert np.all(np.diff(after) < 0)


def fails(match, *args, **options):
    with pytest.raises(ValueError, match=match):
        module = multi_scale_vq(*(args or (SCALES, 7, 5)), **options)
        jax.eval_shape(lambda: module.init(KEY, Z))


def test_settings_that_cannot_be_are_refused():
    fails("must not shrink", ((4, 6), 2, (4, 6)), 7, 5)
    fails("positive sizes", (), 7, 5)
    fails("positive sizes", (0, (4, 6)), 7, 5)
    fails("positive sizes", ((2, 3, 4),), 7, 5)
    fails("axes=4", (1, 4), 7, 5, axes=4)
    fails("one size for each", grid=(4,))
    fails("residual_ratio=1.5", residual_ratio=1.5)
    fails("name one of phis=2", phis=2, phi_by_scale=(0, 1, 2, 2))
    fails("grid of", (1, 4), 7, 5)
    books = (VectorQuantizer(7, 5), VectorQuantizer(7, 5))
    for quantizers, match in (
        (books, "2 quantizers for scales=4"),
        ((*books, *books[:1], VectorQuantizer(8, 5)), "one code space"),
        ((VectorQuantizer(7, 4),), "pyramid's width=5"),
    ):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda q=quantizers: MultiScaleQuantizer(q, Pyramid(SCALES, 5)).init(KEY, Z))


def test_arrays_that_do_not_fit_are_refused():
    module, variables = vq()
    with pytest.raises(ValueError, match=r"those end at \[1, 5, 11, 35\]"):
        module.apply(variables, jnp.zeros((1, 4, 1), jnp.int32), method="decode")
    with pytest.raises(ValueError, match="mask of shape"):
        module.apply(variables, Z, mask=MASK[:, :2])


def test_official_arguments_without_counterpart_are_refused():
    arguments = {"dim": 5, "scales": [1, 2], "codebook_size": [7, 8], "shared_codebook": False}
    with pytest.raises(ValueError, match="all scales the same size"):
        component({"args": arguments})
    with pytest.raises(ValueError, match="heads"):
        component({"args": {**arguments, "codebook_size": 7, "heads": 2}})


def test_official_arguments_that_have_one():
    arguments = {"dim": 5, "scales": [1, [2, 3]], "codebook_size": [7, 7], "accept_image_fmap": True}
    nested = {"nested_dropout": 0.5, "nested_dropout_min_levels": 1}
    part = component(
        {"args": {**arguments, **nested, "stochastic_sample_codes": True, "shared_codebook": False}}
    )
    module = part.module
    assert (module.dropout, module.at_least, module.objective) == (0.5, 1, "scales")
    assert module.layout.scales == ((1, 1), (2, 3)) and module.pyramid.phi_by_scale == (0, 0)
    assert [(q.decay, q.revive_below, q.sample_temperature) for q in module.quantizers] == [
        (0.99, 2.0, 0.1)
    ] * 2
    assert component({"args": {**arguments, **nested, "nested_dropout_min_levels": 2}}).module.dropout == 0
