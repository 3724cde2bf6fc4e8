"""Classes as ids of a vocabulary: the range "class", and the range "null" for "no class" if there is one."""

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxtok.codes import Condition, Vocab


def class_count(vocab: Vocab) -> int:
    """Number of classes; 0 without."""
    return dict(vocab.ranges).get("class", 0)


def class_condition(vocab: Vocab, labels: Int[jax.Array, " B"]) -> Condition:
    """Condition of labels; its null, where the vocabulary has one, is the class whose number is theirs."""
    has_null = "null" in dict(vocab.ranges)
    null = Condition(jnp.full((1,), class_count(vocab), jnp.int32)) if has_null else None
    return Condition(known_or_null(labels, class_count(vocab)) if has_null else labels, null=null)


def known_or_null(labels: Int[jax.Array, " B"], classes: int) -> Int[jax.Array, " B"]:
    """Labels with -1, which stands for an unlabelled image, replaced by the number of the null class."""
    return jnp.where(labels < 0, classes, labels)


def class_ids(vocab: Vocab, condition: Condition) -> Int[jax.Array, " B"]:
    """Ids of the classes that `class_condition` names."""
    labels = jnp.asarray(condition.features)
    ids = vocab.range("class").start + labels
    if "null" not in dict(vocab.ranges):
        return ids
    return jnp.where(labels >= class_count(vocab), vocab.id("null"), ids)
