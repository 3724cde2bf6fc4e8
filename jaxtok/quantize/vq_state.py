"""State of vector quantizers: where it starts, what a batch adds to its statistics, and the step at its end.

    learning     state                                      step
    "ema"        codebook, counts, sums                     moving averages, then revival
    "frozen"     codebook                                   none
    "gradient"   none; counts and offset to revive codes    counts, then revival
    "cvq"        usage, tokens and offset                   unused codes move to features

A codebook that is learned by gradient is a parameter, which only the optimizer moves; what a step of the
state adds to it is its offset, and codes are parameter plus offset. `fold_offset` makes one of the two.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.kernels import code_statistics
from jaxtok.quantize import affine, cvq, revival
from jaxtok.quantize.codebook import kmeans, moving_average_update, random_points

State = Mapping[str, jax.Array]


def start(rules: Any, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """State beside the codebook, before anything was seen.

    Args:
      rules: the `VectorQuantizer`, for its attributes.
      shape: of its codebook, [K, D] or [Q, K, D].
    """
    state = affine.start((*shape[:-2], shape[-1])) if rules.affine else {}
    if rules.learning == "cvq":
        state |= {"usage": jnp.zeros(shape[:-1]), "tokens": jnp.zeros(shape[:-2]), "offset": jnp.zeros(shape)}
    if rules.learning == "gradient" and rules.revive_below:
        state |= {"counts": jnp.ones(shape[:-1]), "offset": jnp.zeros(shape)}
    return state


def by_book(
    x: Float[jax.Array, "B N S d"], mask: jax.Array | None, books: int
) -> tuple[Float[jax.Array, "*books M d"], Float[jax.Array, "*books M"]]:
    """Tokens of each codebook and their weights: [M, d] of one codebook, [Q, M, d] of several."""
    weights = jnp.ones(x.shape[:3]) if mask is None else jnp.broadcast_to(mask[..., None], x.shape[:3])
    weights = weights.astype(jnp.float32)
    if books == 1:
        return x.reshape(-1, x.shape[-1]), weights.reshape(-1)
    return jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 1, 0), weights.reshape(-1, x.shape[2]).T


def codes_by_book(codes: Int[jax.Array, "B N S"], books: int) -> Int[jax.Array, "*books M"]:
    """Codes in the order of `by_book`."""
    return codes.reshape(-1) if books == 1 else codes.reshape(-1, codes.shape[-1]).T


def each_book(function, books: int, *arrays):
    """`function` of the arrays of each codebook, stacked; of the arrays as they are if there is one."""
    if books == 1:
        return function(*arrays)
    parts = [function(*(array[b] for array in arrays)) for b in range(books)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def additive(
    rules: Any,
    x: Float[jax.Array, "B N S d"],
    codes: Int[jax.Array, "B N S"],
    mask: jax.Array | None,
    codebook: jax.Array,
    moments: State | None,
    sample: tuple[jax.Array, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Statistics of a batch.

    Args:
      rules: the `VectorQuantizer`, for its attributes.
      x: features.
      codes: that they chose.
      mask: bool [B, N].
      codebook: parameter plus offset, or state.
      moments: of an affine map, which leads back to where the codebook is kept.
      sample: uniform numbers [B, N, S, 3] and the expected number of tokens [...]: also take a sample of the
        batch.
    """
    tokens, weights = by_book(jax.lax.stop_gradient(x), mask, rules.books)
    out = {}
    if rules.affine:
        out |= affine.moment_sums(tokens, weights)
        tokens = affine.stretch(tokens, moments or {}, "batch", "code")
    chosen = codes_by_book(codes, rules.books)
    count = lambda z, codes, weights: code_statistics(z, codes, rules.codes, weights=weights)
    counts, sums = each_book(count, rules.books, tokens, chosen, weights)
    out |= {"counts": counts, "sums": sums} if rules.learning == "ema" else {"counts": counts}
    if rules.by_gradient and (rules.revives or rules.affine):
        # Weighed by tokens it is additive; the quotient is the codebook, else unknown to `update`.
        calls = jnp.sum(weights)
        out |= {"codebook": jax.lax.stop_gradient(codebook) * calls, "calls": calls}
    if sample is not None:
        uniforms, expected = by_book(sample[0], None, rules.books)[0], sample[1]
        take = lambda z, u, w, n: revival.batch_sample(z, rules.codes, u, w, n)
        out |= each_book(take, rules.books, tokens, uniforms, weights, expected)
    return out


def step(
    rules: Any, state: State, statistics: State, key: jax.Array, code_weights: jax.Array | None = None
) -> dict[str, jax.Array]:
    """The state after an optimizer step, see the table above.

    Args:
      rules: the `VectorQuantizer`, for its attributes.
      state: before it.
      statistics: `additive` ones, summed.
      key: scalar key.
      code_weights: [..., K], how much of a step each code of an "ema" codebook makes; 1 if absent.
    """
    new = dict(state)
    parameter = "calls" in statistics
    codebook = (
        statistics["codebook"] / jnp.maximum(statistics["calls"], 1.0) if parameter else state.get("codebook")
    )
    if rules.affine and codebook is not None:
        new |= affine.update_moments(state, codebook, statistics, rules.affine_decays)
    if rules.learning == "ema":
        new |= moving_average_update(
            state, statistics, rules.decay, metric=rules.metric, weights=code_weights
        )
        return {**new, **_revive(rules, new, statistics, key)}
    if rules.learning == "cvq":
        return _cluster(rules, new, codebook, statistics)
    if rules.learning == "gradient" and "counts" in state:
        counts = statistics["counts"]
        told = jnp.sum(counts, axis=-1, keepdims=True) > 0
        moved = rules.decay * state["counts"] + (1 - rules.decay) * counts
        new["counts"] = jnp.where(told, moved, state["counts"])
        if codebook is not None:
            revived = _revive(rules, {"codebook": codebook, "counts": new["counts"]}, statistics, key)
            # Without any token the codebook is not known.
            moved = jnp.where(told[..., None], revived["codebook"], codebook)
            new["counts"] = jnp.where(told, revived["counts"], new["counts"])
            new["offset"] = _offset(new, codebook, moved)
    return new


def _revive(rules, state, statistics, key):
    if not rules.revive_below:
        return state
    if rules.revival == "split":
        return revival.split_dead_codes(
            state, key, rules.revive_below, metric=rules.metric, measure=rules.revive_unit
        )
    if "sample" not in statistics:
        return state  # statistics of an evaluation pass
    return revival.resample_dead_codes(
        state, statistics, key, rules.revive_below, rules.metric, rules.revive_unit
    )


def _cluster(rules, state, codebook, statistics):
    counts = statistics["counts"]
    total = jnp.sum(counts, axis=-1)
    usage = cvq.usage_step(state["usage"], counts, rules.decay)
    before = state.get("tokens", jnp.zeros_like(total))
    tokens = jnp.where(before > 0, rules.decay * before + (1 - rules.decay) * total, total)
    new = {**state, "usage": usage, "tokens": jnp.where(total > 0, tokens, before)}
    if "sample" not in statistics:
        return new
    vectors, there = revival.sampled_vectors(statistics)
    moved = cvq.towards_anchors(codebook, usage, vectors, rules.decay, rules.metric)
    moved = jnp.where(jnp.any(there, axis=-1)[..., None, None], moved, codebook)
    return new | {"offset": _offset(state, codebook, moved)}


def _offset(state, codebook, moved):
    return state.get("offset", jnp.zeros_like(codebook)) + (moved - codebook)


def from_features(
    rules: Any,
    state: State,
    x: Float[jax.Array, "B N S d"],
    mask: jax.Array | None,
    codebook: jax.Array,
    key: jax.Array,
    iterations: int,
) -> dict[str, jax.Array]:
    """State after k-means on features, from random ones of them.

    Args:
      rules: the `VectorQuantizer`, for its attributes.
      state: the present state; `{"codebook": ...}` of a codebook that is a parameter only.
      x: features.
      mask: bool [B, N] of real tokens.
      codebook: parameter plus offset, or state.
      key: scalar key.
      iterations: of Lloyd's algorithm.
    """
    points, weights = by_book(x, mask, rules.books)
    if rules.affine:  # the map is enough: it leads to the means of the features anyway
        return {**state, **affine.current_moments(codebook, affine.moment_sums(points, weights))}

    def fit(points, weights, key):
        means = random_points(points, rules.codes, key, weights)
        return kmeans(points, means, iterations, rules.metric, weights)

    keys = key if rules.books == 1 else jnp.stack([jax.random.fold_in(key, b) for b in range(rules.books)])
    fitted = each_book(fit, rules.books, points, weights, keys)
    counts = fitted["counts"]
    total = jnp.sum(counts, axis=-1)
    fitted |= {"usage": counts / jnp.maximum(total, 1.0)[..., None], "tokens": total}
    fitted["offset"] = _offset(state, codebook, fitted["codebook"])
    return {name: fitted.get(name, value) for name, value in state.items()}


def fold_offset(variables: Any) -> dict[str, Any]:
    """Variables in which every codebook that is a parameter has taken its offset in.

    The modules work without offsets, and official layouts know none: fold before `jaxtok.convert.save`.

    Args:
      variables: "params" and "quantizer" of any model.
    """
    params, state = dict(variables["params"]), dict(variables.get("quantizer", {}))
    for name, value in list(state.items()):
        if name == "offset":
            params["codebook"] = params["codebook"] + state.pop(name)
        elif isinstance(value, Mapping) and name in params:
            inner = fold_offset({"params": params[name], "quantizer": value})
            params[name], state[name] = inner["params"], inner["quantizer"]
    return {**variables, "params": params, "quantizer": state}
