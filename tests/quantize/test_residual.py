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
    return np.asarray(jnp.mean(jnp.square(x)))


@functools.cache
def kmeans_stack():
    module = residual_vq(4, 5, 8, learning="ema")
    variables = filled(module, Z)
    state = module.apply(variables, variables["quantizer"], Z, KEY, method="initialise")
    return module, {"quantizer": state}


def test_prefixes_refine_and_their_parts_add_up_to_the_output():
    module, variables = kmeans_stack()
    out = module.apply(variables, Z)
    parts = module.apply(variables, out.codes, method="depth_values")
    running = np.cumsum(parts, axis=0)
    np.testing.assert_allclose(running[-1], out.values, atol=1e-6)
    errors = [squares(Z - value) for value in running]
    assert all(a > b for a, b in itertools.pairwise(errors))
    for depth in range(1, 5):
        prefix = module.apply(variables, out.codes[..., :depth], method="decode")
        np.testing.assert_allclose(prefix, running[depth - 1], atol=1e-6)
        kept = module.apply(variables, out.codes, jnp.full(4, depth), method="decode")
        np.testing.assert_array_equal(kept, prefix)
        np.testing.assert_array_equal(
            module.apply(variables, Z, depths=depth, method="encode"), out.codes[..., :depth]
        )


@pytest.mark.parametrize("depth", [1, 3])
def test_residual_signs_are_a_uniform_grid(depth):
    module = residual_lfq(depth, bits=4, entropy_weight=0.0)
    z = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (2, 200, 4)), jnp.float32)
    out = module.apply({}, z)
    step = 2.0 ** (2 - depth)  # 2^depth values between -2 and 2
    assert np.abs(out.values - z).max() <= step / 2 + 1e-6
    assert len(np.unique(out.values)) == 2**depth


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_residual_levels_are_a_uniform_grid(depth):
    levels = (3, 5)
    module = residual_fsq(depth, levels, pre_clamp=1e6)  # so large that nothing is bent
    ends = 1 + 1 / (np.asarray(levels) - 1)  # of the cells of the outermost values
    z = jnp.asarray(np.random.default_rng(0).uniform(-ends, ends, (2, 400, 2)), jnp.float32)
    out = module.apply({}, z)
    for channel, n in enumerate(levels):
        width = 2 / (n - 1) * float(n) ** (1 - depth)  # of a cell at the last depth
        assert np.abs(out.values - z)[..., channel].max() <= width / 2 + 1e-5
        assert len(np.unique(np.round(out.values[..., channel], 5))) == n**depth


def test_the_gradient_fraction_changes_gradients_only():
    whole, part = residual_vq(3, 7, 8), residual_vq(3, 7, 8, gradient_fraction=0.5)
    variables = filled(whole, Z)

    def commitment(module, z):
        return module.apply(variables, z).losses["commitment"]

    a, b = (module.apply(variables, Z) for module in (whole, part))
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(a.values, b.values)
    # Straight through, a depth hands a share 1 - f of a later depth's gradient on to the features.
    differences, residual = [], Z
    for value in whole.apply(variables, a.codes, method="depth_values"):
        residual = residual - value
        differences.append(2 * 0.25 * residual / Z.size)
    expected = sum(0.5**i * difference for i, difference in enumerate(differences))
    np.testing.assert_allclose(jax.grad(commitment, argnums=1)(part, Z), expected, atol=1e-7)
    np.testing.assert_allclose(jax.grad(commitment, argnums=1)(whole, Z), sum(differences), atol=1e-7)


def test_depths_are_kept_uniformly_and_in_multiples():
    uniforms = jnp.linspace(0, 1, 1000, endpoint=False)
    np.testing.assert_array_equal(np.bincount(kept_depths(uniforms, 5)), [0, 200, 200, 200, 200, 200])
    assert set(np.unique(kept_depths(uniforms, 7, at_least=3, multiple_of=2))) == {4, 6, 7}


def test_dropped_depths_leave_no_trace():
    module = residual_vq(4, 7, 8, learning="ema", dropout=True, at_least=2)
    variables, keys = filled(module, Z), jax.random.split(KEY, 4)
    out = module.apply(variables, Z, train=True, key=keys)
    kept = module.draw_kept(keys, 4)
    assert len(set(np.asarray(kept))) > 1 and kept.min() >= 2
    mask = module.levels_mask(kept, 6)
    assert mask.shape == out.codes.shape and not np.asarray(out.codes)[~np.asarray(mask)].any()
    np.testing.assert_array_equal(out.values, module.apply(variables, out.codes, kept, method="decode"))
    counts = [out.statistics[f"quantizers_{i}"]["counts"].sum() for i in range(4)]
    np.testing.assert_array_equal(counts, [6 * int((kept > i).sum()) for i in range(4)])
    for row in range(4):  # every example as if it were alone
        alone = module.apply(variables, Z[row : row + 1], train=True, key=keys[row : row + 1])
        np.testing.assert_array_equal(alone.codes[0], out.codes[row])
    together = module.clone(dropout_per="batch").draw_kept(keys, 4)
    assert len(set(np.asarray(together))) == 1
    real = jnp.ones((4, 6), bool).at[0, 1:].set(False)
    assert not module.levels_mask(kept, 6, real)[0, 1:].any()


def test_training_with_dropout_needs_randomness():
    module = residual_vq(3, 7, 8, dropout=True)
    with pytest.raises(ValueError, match="needs a key"):
        module.apply(filled(module, Z), Z, train=True)


def test_a_shared_codebook_steps_per_depth_and_is_revived_from_all_depths():
    options = {"shared": True, "learning": "ema", "decay": 0.5}
    plain = residual_vq(3, 7, 8, **options)
    variables = filled(plain, Z)
    state = {name: jnp.abs(leaf) for name, leaf in variables["quantizer"]["quantizers_0"].items()}
    state["counts"] = state["counts"].at[0].set(0.0)
    variables = {"quantizer": {"quantizers_0": state}}
    statistics = plain.apply(variables, Z).statistics
    assert set(variables["quantizer"]) == {"quantizers_0"}
    counts = state["counts"]
    for i in range(3):
        counts = 0.5 * counts + 0.5 * statistics[f"quantizers_{i}"]["counts"]
    new = plain.update(variables["quantizer"], statistics, KEY)["quantizers_0"]
    np.testing.assert_allclose(new["counts"], counts, rtol=1e-6)
    # The last depth was dropped: its sample is empty, the others' are there.
    reviving = residual_vq(3, 7, 8, revive_below=10.0, revival="sample", **options)
    out = reviving.apply(variables, Z, train=True, key=KEY, kept=2)
    assert not out.statistics["quantizers_2"]["sample_weight"].any()
    revived = reviving.update(variables["quantizer"], out.statistics, KEY)["quantizers_0"]["codebook"]
    first = Z.reshape(-1, 8)
    codes = plain.apply(variables, Z, method="encode", depths=1)
    second = (Z - plain.apply(variables, codes, method="decode")).reshape(-1, 8)
    tokens = np.concatenate([first, second])
    # Most of them are (nearly) tokens, some a mixture of two that fell on one place.
    assert np.mean([np.abs(tokens - code).max(axis=1).min() < 0.05 for code in np.asarray(revived)]) > 0.4
    alone = reviving.update(
        variables["quantizer"],
        {**out.statistics, **{f"quantizers_{i}": out.statistics["quantizers_2"] for i in (0, 1)}},
        KEY,
    )["quantizers_0"]
    np.testing.assert_array_equal(alone["codebook"], state["codebook"])  # nothing seen, nothing changed


def test_a_beam_of_one_is_greedy_and_an_exhaustive_one_is_best():
    books = [normal(4, 3, seed=i) * 0.6**i for i in range(3)]
    x = normal(50, 3, seed=9)

    def score(codes):
        residual, total = x, 0.0
        for book, code in zip(books, codes.T, strict=True):
            residual = residual - book[code]
            total = total + jnp.sum(jnp.square(residual), axis=-1)
        return np.asarray(total)

    residual, greedy = x, []
    for book in books:
        distances = jnp.sum(jnp.square(residual[:, None] - book), axis=-1)
        greedy.append(jnp.argmin(distances, axis=1))
        residual = residual - book[greedy[-1]]
    np.testing.assert_array_equal(beam_codes(x, books, 1), jnp.stack(greedy, axis=1))
    scores = [score(beam_codes(x, books, width)) for width in (1, 2, 4, 16)]
    means = [s.mean() for s in scores]
    assert means[0] > means[1] > means[-1] and means[2] >= means[3]
    grid = np.stack(np.meshgrid(*[range(4)] * 3), axis=-1).reshape(-1, 3)
    best = np.min([score(np.tile(path, (50, 1))) for path in grid], axis=0)
    np.testing.assert_allclose(scores[-1], best, rtol=1e-5)
    last = beam_codes(x, books, 16, (0.0, 0.0, 1.0))  # only what is left in the end counts
    final = lambda codes: np.asarray(
        jnp.sum(jnp.square(x - sum(b[c] for b, c in zip(books, codes.T, strict=True))), axis=-1)
    )
    assert final(last).mean() <= final(beam_codes(x, books, 16)).mean()


def test_beams_refuse_what_they_cannot_search():
    with pytest.raises(ValueError, match="beam=2 needs Euclidean"):
        module = residual_vq(2, 7, 8, beam=2, metric="cosine", learning="ema")
        module.apply(filled(residual_vq(2, 7, 8, metric="cosine", learning="ema"), Z), Z)
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
    out = module.apply(variables, z, train=True, key=KEY)
    first, second = np.split(np.asarray(out.codes), 2, axis=-1)
    assert (first[..., 0] != second[..., 0]).any()
    kept = np.asarray(part.draw_kept(KEY, 4))
    for codes in (first, second):
        assert not codes[np.arange(3) >= kept[:, None, None] + 0 * codes].any()
        assert codes[np.arange(3) < kept[:, None, None] + 0 * codes].any()
    one = module.apply(variables, z, train=True, key=KEY, kept=1).codes
    assert not one[..., 1:3].any() and not one[..., 4:].any()


def test_a_directional_stack_perturbs_the_sum_once():
    module = residual_vq(3, 7, 8, routing="directional", perturbation=0.0)
    variables = filled(module, Z)
    out, evaluation = module.apply(variables, Z, train=True, key=KEY), module.apply(variables, Z)
    assert not out.losses
    np.testing.assert_allclose(out.values, evaluation.values, atol=1e-5)
    gradient = jax.grad(lambda v: jnp.sum(jnp.sin(module.apply(v, Z, train=True, key=KEY).values)))(variables)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    noisy = module.clone(perturbation=0.1)
    assert np.abs(noisy.apply(variables, Z, train=True, key=KEY).values - evaluation.values).max() > 1e-2


def test_only_the_maps_of_residual_simvq_learn():
    module = residual_simvq(2, 16, 8)
    variables = filled(module, Z)
    out = module.apply(variables, Z)
    np.testing.assert_array_equal(out.values, module.apply(variables, out.codes, method="decode"))
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert names == {"map_0"}
