import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtok.decoding.logits import LogitRules, likeliest, min_p, temperature, top_k, top_p
from jaxtok.tensor_files import read_tensors

ROWS = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=7, max_size=7)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def kept(logits):
    return set(np.flatnonzero(np.isfinite(np.asarray(logits))).tolist())


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 9))
def test_top_k_keeps_the_k_largest_and_ties_with_the_last_of_them(row, k):
    smallest = sorted(row, reverse=True)[: min(k, 7)][-1]
    assert kept(top_k(jnp.asarray(row), k)) == {i for i, x in enumerate(row) if x >= smallest}


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 19).map(lambda n: n / 20 + 0.01))
def test_top_p_is_the_smallest_set_that_holds_p(row, p):
    chosen, total = set(), 0.0
    probabilities = softmax(row)
    margins = []
    for i in sorted(range(7), key=lambda i: (-row[i], i)):
        margins.append(abs(total - p))
        if total < p:
            chosen.add(i)
        total += probabilities[i]
    if min(margins) > 1e-5:
        assert kept(top_p(jnp.asarray(row), p)) == chosen
        assert probabilities[list(chosen)].sum() >= p - 1e-9


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 20).map(lambda n: n / 20))
def test_min_p_compares_with_the_likeliest(row, p):
    ratio = softmax(row) / softmax(row).max()
    if np.min(np.abs(ratio - p)) > 1e-5 or p == 1:
        assert kept(min_p(jnp.asarray(row), p)) == set(np.flatnonzero(ratio >= p).tolist())


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_likeliest_is_the_argmax_and_of_equal_ones_the_first(row):
    assert int(likeliest(jnp.asarray(row))) == int(np.argmax(row))


def test_without_numbers_the_likeliest_is_still_an_index():
    found = likeliest(jnp.array([[1.0, jnp.nan, 0.0], [-jnp.inf, -jnp.inf, -jnp.inf]]))
    assert found.dtype == jnp.int32 and found.tolist() == [2, 0]


@settings(max_examples=60, deadline=None)
@given(
    ROWS,
    st.builds(
        LogitRules,
        st.sampled_from([0.5, 1.0, 3.0]),
        st.sampled_from([0, 1, 3]),
        st.sampled_from([0.01, 0.6, 1.0]),
        st.sampled_from([0.0, 0.3, 1.0]),
    ),
)
def test_rules_never_exclude_the_likeliest_nor_change_what_they_keep(row, rules):
    logits = jnp.asarray(row)
    out = np.asarray(rules(logits))
    assert int(np.argmax(row)) in kept(out)
    finite = np.isfinite(out)
    np.testing.assert_allclose(
        out[finite], np.asarray(row, np.float32)[finite] / rules.temperature, rtol=1e-6
    )
    chain = min_p(top_p(top_k(temperature(logits, rules.temperature), rules.top_k), rules.top_p), rules.min_p)
    np.testing.assert_array_equal(out, chain)


def test_rules_that_keep_everything_change_nothing():
    logits = jnp.asarray([[0.0, -jnp.inf, 2.0]])
    np.testing.assert_array_equal(LogitRules()(logits), logits)


def test_the_filters_of_the_official_code_keep_the_same(shared):
    tensors, _ = read_tensors(shared("goldens/llamagen_gpt_c2i.safetensors"))
    names = {key.removeprefix("io.filter."): value for key, value in tensors.items() if ".filter." in key}
    logits = jnp.asarray(names.pop("logits"))
    ours = {
        "topk5": LogitRules(top_k=5),
        "topp07": LogitRules(top_p=0.7),
        "topk6_topp05": LogitRules(top_k=6, top_p=0.5),
    }
    assert ours.keys() == names.keys()
    for name, rules in ours.items():
        np.testing.assert_array_equal(np.maximum(rules(logits), -1e9), names[name], err_msg=name)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"top_k": -1}, "top_k=-1 must be at least 0"),
        ({"top_p": 0.0}, r"top_p=0.0 must lie in \(0, 1\]"),
        ({"min_p": 1.5}, r"min_p=1.5 must lie in \[0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogitRules(**arguments)


def test_the_largest_are_those_that_sorting_finds():
    values = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    values[0, ::3] = values[1, ::5] = 0.0
    values[0, ::6], values[1, 1::5], values[2, ::7] = -0.0, -np.inf, 1e30
    run = jax.jit(top_k, static_argnums=1)
    for k in (1, 2, 60, 150, 199):
        least = np.sort(values, axis=-1)[:, -k:][:, :1]
        np.testing.assert_array_equal(run(values, k), np.where(values >= least, values, -np.inf))
