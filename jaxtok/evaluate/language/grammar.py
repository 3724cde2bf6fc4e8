"""Does a sequence have a hierarchy? Held-out perplexity of a small probabilistic context-free grammar.

The grammar has a root over nonterminals, rules A -> B C over nonterminals and preterminals, and preterminals
that emit tokens. It is fitted by expectation maximisation: expected counts of rules are the gradient of the
log-likelihood that the inside algorithm gives (Eisner 2016). Compare with the shuffled corpus: a grammar that
finds nothing has the perplexity of single tokens.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result

Grammar = dict[
    str, jax.Array
]  # log probabilities: "root" [A], "rules" [A, S, S], "emissions" [P, V]; S = A + P

_LOW = -1e9  # log 0 that differentiates


def random_grammar(
    key: jax.Array, types: int, nonterminals: int = 6, preterminals: int = 8, noise: float = 1.0
) -> Grammar:
    """Log probabilities near the uniform ones; without noise no step of the fit could tell symbols apart."""
    symbols = nonterminals + preterminals
    shapes = {
        "root": (nonterminals,),
        "rules": (nonterminals, symbols * symbols),
        "emissions": (preterminals, types),
    }
    keys = jax.random.split(key, len(shapes))
    logits = {name: noise * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}
    logits = {name: jax.nn.log_softmax(value, axis=-1) for name, value in logits.items()}
    return {**logits, "rules": logits["rules"].reshape(nonterminals, symbols, symbols)}


def inside(grammar: Grammar, tokens: Int[Array, "B T"]) -> Float[jax.Array, " B"]:
    """log p of each sentence, T >= 2, summed over all its trees; O(T^3).

    Args:
      grammar: log probabilities.
      tokens: ids below the number of types.

    Raises:
      ValueError: sentences of a single token, which have no rule.
    """
    batch, length = tokens.shape
    if length < 2:
        raise ValueError(f"sentences of {length} tokens have no tree; give rows of at least 2")
    nonterminals = grammar["root"].shape[0]
    symbols = grammar["rules"].shape[1]
    rules = jnp.exp(grammar["rules"])
    words = jnp.moveaxis(grammar["emissions"][:, tokens], 0, -1)
    # chart[w, b, i]: log probabilities that a symbol spans the w tokens from i on.
    chart = jnp.full((length + 1, batch, length, symbols), _LOW)
    chart = chart.at[1, :, :, nonterminals:].set(words)
    starts, splits = jnp.arange(length), jnp.arange(1, length)

    def widen(chart, width):
        left = chart[1:length]
        rows = jnp.clip(width - splits, 0, length)[:, None]
        columns = jnp.clip(starts + splits[:, None], 0, length - 1)
        right = jnp.moveaxis(chart[rows, :, columns], 2, 1)
        fits = (splits < width)[:, None, None] & (starts + width <= length)
        best_left, best_right = left.max(axis=-1), right.max(axis=-1)
        both = jnp.where(fits, best_left + best_right, _LOW)
        top = jax.lax.stop_gradient(jnp.maximum(both.max(axis=0), _LOW))
        weight = jnp.where(fits, jnp.exp(both - top), 0.0)
        pairs = jnp.einsum(
            "kbi,kbis,kbit->bist",
            weight,
            jnp.exp(left - best_left[..., None]),
            jnp.exp(right - best_right[..., None]),
        )
        sums = jnp.einsum("bist,ast->bia", pairs, rules)
        spans = jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1.0)) + top[..., None], _LOW)
        return chart.at[width, :, :, :nonterminals].set(spans), None

    chart, _ = jax.lax.scan(widen, chart, jnp.arange(2, length + 1))
    return jax.nn.logsumexp(grammar["root"] + chart[length, :, 0, :nonterminals], axis=-1)


@functools.partial(jax.jit, static_argnames="smoothing")
def _em_step(grammar: Grammar, tokens: jax.Array, smoothing: float) -> tuple[Grammar, jax.Array]:
    """Normalised expected counts, and the log-likelihood before."""
    value, counts = jax.value_and_grad(lambda g: inside(g, tokens).sum())(grammar)

    def normalised(table, axes):
        table = jnp.maximum(table, 0.0) + smoothing
        return jnp.log(table) - jnp.log(table.sum(axis=axes, keepdims=True))

    updated = {
        "root": normalised(counts["root"], 0),
        "rules": normalised(counts["rules"], (1, 2)),
        "emissions": normalised(counts["emissions"], 1),
    }
    return updated, value


def fit_grammar(
    tokens: Int[Array, "B T"],
    types: int,
    *,
    nonterminals: int = 6,
    preterminals: int = 8,
    iterations: int = 30,
    smoothing: float = 0.01,
    seed: int = 0,
) -> tuple[Grammar, list[float]]:
    """Expectation maximisation from a random grammar; the likelihood without smoothing never falls.

    Args:
      tokens: ids below `types`.
      types: V.
      nonterminals, preterminals: size.
      iterations: of EM over all sentences.
      smoothing: added to every expected count.
      seed: of the start.

    Returns:
      The grammar, and the log-likelihood per token before every iteration, in nats.
    """
    grammar = random_grammar(jax.random.key(seed), types, nonterminals, preterminals)
    sentences, history = jnp.asarray(np.asarray(tokens).astype(np.int32)), []
    for _ in range(iterations):
        grammar, value = _em_step(grammar, sentences, smoothing)
        history.append(float(value) / sentences.size)
    return grammar, history


def grammar_results(
    train: Int[Array, "B T"],
    test: Int[Array, "C T"],
    *,
    nonterminals: int = 6,
    preterminals: int = 8,
    most_types: int = 64,
    iterations: int = 30,
    seed: int = 0,
    **protocol: Any,
) -> list[Result]:
    """`pcfg_perplexity` of held-out sentences per token, and `pcfg_gain_bits`: how many bits a token costs
    less than by the smoothed frequencies of single tokens.

    Args:
      train, test: ids; sentences of equal length (up to about 40; cut longer ones into windows).
      nonterminals, preterminals, iterations, seed: see `fit_grammar`.
      most_types: the most frequent types of the training sentences keep their id, all others become one.
      **protocol: what this cannot know: data set, order of the tokens, which control.

    Raises:
      ValueError: no sentences, or sentences of a single token.
    """
    train, test = np.asarray(train), np.asarray(test)
    if not len(train) or not len(test):
        raise ValueError(f"{len(train)} sentences to fit and {len(test)} to score; both are needed")
    values, counts = np.unique(train, return_counts=True)
    kept = np.sort(values[np.argsort(-counts, kind="stable")[:most_types]])
    rows = [np.where(np.isin(part, kept), np.searchsorted(kept, part), len(kept)) for part in (train, test)]
    types = len(kept) + 1
    settings = {
        "nonterminals": nonterminals,
        "preterminals": preterminals,
        "iterations": iterations,
        "seed": seed,
    }
    grammar, _ = fit_grammar(rows[0], types, **settings)
    cost = -float(jnp.mean(jax.jit(inside)(grammar, rows[1].astype(np.int32)))) / test.shape[1]
    single = np.bincount(rows[0].ravel(), minlength=types) + 0.01
    alone = -float(np.mean(np.log(single / single.sum())[rows[1]]))
    shared = {
        **settings,
        "types": types,
        "length": train.shape[1],
        "train_sentences": len(train),
        "test_sentences": len(test),
        **protocol,
    }
    return [
        Result("pcfg_perplexity", math.exp(cost), shared),
        Result("pcfg_gain_bits", (alone - cost) / math.log(2), shared),
    ]
