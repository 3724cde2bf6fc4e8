import itertools

import jax
import numpy as np
import pytest

from jaxtok.evaluate.language.grammar import fit_grammar, grammar_results, inside, random_grammar


def test_probabilities_are_those_of_all_trees_and_sum_to_one():
    grammar = random_grammar(jax.random.key(0), 2, nonterminals=2, preterminals=2)
    root, rules, emissions = (
        np.exp(np.asarray(grammar[name], np.float64)) for name in ("root", "rules", "emissions")
    )
    sentences = np.array(list(itertools.product((0, 1), repeat=3)), np.int32)
    found = np.exp(jax.jit(inside)(grammar, sentences))

    def spans(words):
        """Probability that each symbol (nonterminals first) makes these words."""
        if len(words) == 1:
            return np.concatenate([np.zeros(2), emissions[:, words[0]]])
        parts = [np.outer(spans(words[:k]), spans(words[k:])) for k in range(1, len(words))]
        return np.concatenate([np.einsum("ast,st->a", rules, sum(parts)), np.zeros(2)])

    expected = [root @ spans(tuple(words))[:2] for words in sentences.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        inside(grammar, sentences[:, :1])


@pytest.fixture(scope="module")
def phrases():
    """Sentences of three phrases of two letters each, 01, 23 or 45."""
    first = 2 * np.random.default_rng(0).integers(0, 3, (150, 3))
    return np.stack([first, first + 1], axis=-1).reshape(150, 6)


@pytest.mark.slow
def test_phrases_are_found_and_a_shuffle_has_none(phrases):
    mixed = np.random.default_rng(1).permuted(phrases, axis=1)
    true, control = (
        {
            r.name: r
            for r in grammar_results(rows[:100], rows[100:], nonterminals=6, preterminals=6, order=name)
        }
        for name, rows in (("given", phrases), ("shuffled", mixed))
    )
    assert true["pcfg_gain_bits"].value > control["pcfg_gain_bits"].value + 0.5
    assert true["pcfg_perplexity"].value < control["pcfg_perplexity"].value
    assert true["pcfg_perplexity"].protocol["order"] == "given"
    assert true["pcfg_perplexity"].protocol["train_sentences"] == 100


def test_the_likelihood_never_falls(phrases):
    _, history = fit_grammar(
        phrases[:60, :4], 6, nonterminals=4, preterminals=3, iterations=15, smoothing=1e-6
    )
    assert np.all(np.diff(history) > -1e-4) and history[-1] > history[0] + 0.05


def test_sentences_are_needed():
    with pytest.raises(ValueError, match="both are needed"):
        grammar_results(np.zeros((0, 4), int), np.zeros((1, 4), int))
