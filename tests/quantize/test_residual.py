"""Identities of residual stacks, their dropout of depths, search and shared codebooks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.beam import beam_codes
from jaxtok.quantize.depth_dropout import kept_depths
from jaxtok.quantize.grouped import GroupedQuantizer
from jaxtok.quantize.residual import (
    residual_fsq,
    residual_lfq,
    residual_simvq,
    residual_vq,
)
from tests.filled import filled, normal

KEY = jax.random.key(0)
Z = normal(4, 6, 8)


def squares(x):
    return np.mean(np.square(x))


@functools.cache
def kmeans_stack():
    module = residual_vq(4, 5, 8, learning="ema")
    variables = filled(module, Z)
    start = lambda variables: module.apply(variables, variables["quantizer"], Z, KEY, method="initialise")
    return module, {"quantizer": jax.jit(start)(variables)}


def test_prefixes_refine_and_their_parts_add_up_to_the_output():
    module, variables = kmeans_stack()

    @jax.jit
    def run(variables, z):
        out = module.apply(variables, z)
        parts = module.apply(variables, out.codes, method="depth_values")
        by_depth = []
        for depth in range(1, 5):
            prefix = module.apply(variables, out.codes[..., :depth], method="decode")
            kept = module.apply(variables, out.codes, jnp.full(4, depth), method="decode")
            by_depth.append((prefix, kept, module.apply(variables, z, depths=depth, method="encode")))
        return out, parts, by_depth

    out, parts, by_depth = jax.device_get(run(variables, Z))
    running = np.cumsum(parts, axis=0)
    np.testing.assert_allclose(running[-1], out.values, atol=1e-6)
    errors = [squares(Z - value) for value in running]
    assert all(a > b for a, b in itertools.pairwise(errors))
    for depth, (prefix, kept, codes) in enumerate(by_depth, 1):
        np.testing.assert_allclose(prefix, running[depth - 1], atol=1e-6)
        np.testing.assert_array_equal(kept, prefix)
        np.testing.assert_array_equal(codes, out.codes[..., :depth])


@pytest.mark.parametrize("depth", [1, 3])
def test_residual_signs_are_a_uniform_grid(depth):
    module = residual_lfq(depth, bits=4, entropy_weight=0.0)
    z = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (2, 200, 4)), jnp.float32)
    out = jax.device_get(jax.jit(module.apply)({}, z))
    step = 2.0 ** (2 - depth)  # 2^depth values between -2 and 2
    assert np.abs(out.values - z).max() <= step / 2 + 1e-6
    assert len(np.unique(out.values)) == 2**depth


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_residual_levels_are_a_uniform_grid(depth):
    levels = (3, 5)
    module = residual_fsq(depth, levels, pre_clamp=1e6)  # so large that nothing is bent
    ends = 1 + 1 / (np.asarray(levels) - 1)  # of the cells of the outermost values
    z = jnp.asarray(np.random.default_rng(0).uniform(-ends, ends, (2, 400, 2)), jnp.float32)
    out = jax.device_get(jax.jit(module.apply)({}, z))
    for channel, n in enumerate(levels):
        width = 2 / (n - 1) * float(n) ** (1 - depth)  # of a cell at the last depth
        assert np.abs(out.values - z)[..., channel].max() <= width / 2 + 1e-5
        assert len(np.unique(np.round(out.values[..., channel], 5))) == n**depth


def test_the_gradient_fraction_changes_gradients_only():
    whole, part = residual_vq(3, 7, 8), residual_vq(3, 7, 8, gradient_fraction=0.5)
    variables = filled(whole, Z)

    def commitment(module, z):
        out = module.apply(variables, z)
        return out.losses["commitment"], out

    @jax.jit
    def run(z):
        of = lambda module: jax.grad(commitment, argnums=1, has_aux=True)(module, z)
        codes = whole.apply(variables, z, method="encode")
        return of(whole), of(part), whole.apply(variables, codes, method="depth_values")

    (of_whole, a), (of_part, b), values = jax.device_get(run(Z))
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(a.values, b.values)
    # Straight through, a depth hands a share 1 - f of a later depth's gradient on to the features.
    differences, residual = [], np.asarray(Z)
    for value in values:
        residual = residual - value
        differences.append(2 * 0.25 * residual / Z.size)
    expected = sum(0.5**i * difference for i, difference in enumerate(differences))
    np.testing.assert_allclose(of_part, expected, atol=1e-7)
    np.testing.assert_allclose(of_whole, sum(differences), atol=1e-7)


def test_depths_are_kept_uniformly_and_in_multiples():
    uniforms = jnp.linspace(0, 1, 1000, endpoint=False)
    np.testing.assert_array_equal(np.bincount(kept_depths(uniforms, 5)), [0, 200, 200, 200, 200, 200])
    assert set(np.unique(kept_depths(uniforms, 7, at_least=3, multiple_of=2))) == {4, 6, 7}


def test_dropped_depths_leave_no_trace():
    module = residual_vq(4, 7, 8, learning="ema", dropout=True, at_least=2)
    variables, keys = filled(module, Z), jax.random.split(KEY, 4)
    real = jnp.ones((4, 6), bool).at[0, 1:].set(False)

    @jax.jit
    def run(variables, z, keys):
        out = module.apply(variables, z, train=True, key=keys)
        kept = module.draw_kept(keys, 4)
        # Every example as if it were alone.
        one = lambda row: module.apply(variables, row[0][None], train=True, key=row[1][None]).codes[0]
        return {
            "out": out,
            "kept": kept,
            "masks": (module.levels_mask(kept, 6), module.levels_mask(kept, 6, real)),
            "decoded": module.apply(variables, out.codes, kept, method="decode"),
            "alone": jax.lax.map(one, (z, keys)),
            "together": module.clone(dropout_per="batch").draw_kept(keys, 4),
        }

    found = jax.device_get(run(variables, Z, keys))
    out, kept, (mask, real_mask) = found["out"], found["kept"], found["masks"]
    assert len(set(kept)) > 1 and kept.min() >= 2
    assert mask.shape == out.codes.shape and not out.codes[~mask].any()
    np.testing.assert_array_equal(out.values, found["decoded"])
    counts = [out.statistics[f"quantizers_{i}"]["counts"].sum() for i in range(4)]
    np.testing.assert_array_equal(counts, [6 * int((kept > i).sum()) for i in range(4)])
    np.testing.assert_array_equal(found["alone"], out.codes)
    assert len(set(found["together"])) == 1
    assert not real_mask[0, 1:].any()


def test_training_with_dropout_needs_randomness():
    module = residual_vq(3, 7, 8, dropout=True)
    with pytest.raises(ValueError, match="needs a key"):
        jax.eval_shape(lambda variables: module.apply(variables, Z, train=True), filled(module, Z))


def test_a_shared_codebook_steps_per_depth_and_is_revived_from_all_depths():
    options = {"shared": True, "learning": "ema", "decay": 0.5}
    plain = residual_vq(3, 7, 8, **options)
    variables = filled(plain, Z)
    state = {name: jnp.abs(leaf) for name, leaf in variables["quantizer"]["quantizers_0"].items()}
    state["counts"] = state["counts"].at[0].set(0.0)
    variables = {"quantizer": {"quantizers_0": state}}
    assert set(variables["quantizer"]) == {"quantizers_0"}

    @jax.jit
    def step(variables):
        statistics = plain.apply(variables, Z).statistics
        first = plain.apply(variables, Z, method="encode", depths=1)
        new = plain.update(variables["quantizer"], statistics, KEY)
        return statistics, new["quantizers_0"], plain.apply(variables, first, method="decode")

    statistics, new, first_values = jax.device_get(step(variables))
    counts = np.asarray(state["counts"])
    for i in range(3):
        counts = 0.5 * counts + 0.5 * statistics[f"quantizers_{i}"]["counts"]
    np.testing.assert_allclose(new["counts"], counts, rtol=1e-6)
    # The last depth was dropped: its sample is empty, the others' are there.
    reviving = residual_vq(3, 7, 8, revive_below=10.0, revival="sample", **options)
    out = jax.jit(lambda variables: reviving.apply(variables, Z, train=True, key=KEY, kept=2))(variables)
    update = jax.jit(lambda statistics: reviving.update(variables["quantizer"], statistics, KEY))
    assert not out.statistics["quantizers_2"]["sample_weight"].any()
    revived = update(out.statistics)["quantizers_0"]["codebook"]
    first = np.asarray(Z).reshape(-1, 8)
    second = (np.asarray(Z) - first_values).reshape(-1, 8)
    tokens = np.concatenate([first, second])
    # Most of them are (nearly) tokens, some a mixture of two that fell on one place.
    assert np.mean([np.abs(tokens - code).max(axis=1).min() < 0.05 for code in np.asarray(revived)]) > 0.4
    nothing = {f"quantizers_{i}": out.statistics["quantizers_2"] for i in (0, 1)}
    alone = update({**out.statistics, **nothing})["quantizers_0"]
    np.testing.assert_array_equal(alone["codebook"], state["codebook"])  # nothing seen, nothing changed


def test_a_beam_of_one_is_greedy_and_an_exhaustive_one_is_best():
    books = [np.asarray(normal(4, 3, seed=i)) * np.float32(0.6) ** i for i in range(3)]
    x = np.asarray(normal(50, 3, seed=9))

    @jax.jit
    def search(x, books):
        widths = {width: beam_codes(x, books, width) for width in (1, 2, 4, 16)}
        return widths, beam_codes(x, books, 16, (0.0, 0.0, 1.0))

    found, last = jax.device_get(search(x, books))

    def score(codes):
        residual, total = x, 0.0
        for book, code in zip(books, codes.T, strict=True):
            residual = residual - book[code]
            total = total + np.sum(np.square(residual), axis=-1)
        return total

    residual, greedy = x, []
    for book in books:
        distances = np.sum(np.square(residual[:, None] - book), axis=-1)
        greedy.append(np.argmin(distances, axis=1))
        residual = residual - book[greedy[-1]]
    np.testing.assert_array_equal(found[1], np.stack(greedy, axis=1))
    scores = [score(codes) for codes in found.values()]
    means = [s.mean() for s in scores]
    assert means[0] > means[1] > means[-1] and means[2] >= means[3]
    grid = np.stack(np.meshgrid(*[range(4)] * 3), axis=-1).reshape(-1, 3)
    best = np.min([score(np.tile(path, (50, 1))) for path in grid], axis=0)
    np.testing.assert_allclose(scores[-1], best, rtol=1e-5)
    # In "last" only what is left in the end counts.
    final = lambda codes: np.sum(np.square(x - sum(b[c] for b, c in zip(books, codes.T, strict=True))), -1)
    assert final(last).mean() <= final(found[16]).mean()


def test_beams_refuse_what_they_cannot_search():
    with pytest.raises(ValueError, match="beam=2 needs Euclidean"):
        module = residual_vq(2, 7, 8, beam=2, metric="cosine", learning="ema")
        variables = filled(residual_vq(2, 7, 8, metric="cosine", learning="ema"), Z)
        jax.eval_shape(module.apply, variables, Z)
    with pytest.raises(ValueError, match="one number per depth"):
        jax.eval_shape(lambda: residual_vq(2, 7, 8, beam=2, beam_weights=(1.0,)).init(KEY, Z))
    with pytest.raises(ValueError, match="does not go with a beam"):
        module = residual_vq(2, 7, 8, beam=2, learning="ema", revive_below=0.1, revival="sample")
        jax.eval_shape(lambda: module.init(KEY, Z))


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="give one size"):
        residual_vq(3, (4, 5), 8)
    with pytest.raises(ValueError, match="cannot be kept"):
        jax.eval_shape(lambda: residual_vq(2, 7, 8, at_least=3).init(KEY, Z))


def test_groups_keep_the_same_depths_and_draw_noise_of_their_own():
    part = residual_vq(3, 64, 4, dropout=True, sample_temperature=5.0)
    module = GroupedQuantizer((part, part.clone()))
    z = jnp.concatenate([Z[..., :4]] * 2, axis=-1)
    variables = filled(module, z)
    params = variables["params"]
    variables = {"params": {**params, "quantizers_1": params["quantizers_0"]}}  # twins

    @jax.jit
    def run(variables):
        out = module.apply(variables, z, train=True, key=KEY)
        one = module.apply(variables, z, train=True, key=KEY, kept=1)
        return out.codes, one.codes, part.draw_kept(KEY, 4)

    codes, one, kept = jax.device_get(run(variables))
    first, second = np.split(codes, 2, axis=-1)
    assert (first[..., 0] != second[..., 0]).any()
    for codes in (first, second):
        assert not codes[np.arange(3) >= kept[:, None, None] + 0 * codes].any()
        assert codes[np.arange(3) < kept[:, None, None] + 0 * codes].any()
    assert not one[..., 1:3].any() and not one[..., 4:].any()


def test_a_directional_stack_perturbs_the_sum_once():
    module = residual_vq(3, 7, 8, routing="directional", perturbation=0.0)
    variables = filled(module, Z)

    @jax.jit
    def run(variables):
        def loss(variables):
            out = module.apply(variables, Z, train=True, key=KEY)
            return jnp.sum(jnp.sin(out.values)), out

        gradient, out = jax.grad(loss, has_aux=True)(variables)
        noisy = module.clone(perturbation=0.1).apply(variables, Z, train=True, key=KEY)
        return gradient, out, noisy, module.apply(variables, Z)

    gradient, out, noisy, evaluation = jax.device_get(run(variables))
    assert not out.losses
    np.testing.assert_allclose(out.values, evaluation.values, atol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert np.abs(noisy.values - evaluation.values).max() > 1e-2


def test_only_the_maps_of_residual_simvq_learn():
    module = residual_simvq(2, 16, 8)
    variables = filled(module, Z)

    @jax.jit
    def run(variables):
        out = module.apply(variables, Z)
        return out.values, module.apply(variables, out.codes, method="decode")

    np.testing.assert_array_equal(*run(variables))
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert names == {"map_0"}
