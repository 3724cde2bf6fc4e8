"""What can be seen before the first step of a run: that data and model fit, and which labels there are."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from jaxtok.data.dataset import Dataset
from jaxtok.data.records import Source
from jaxtok.train.stage import Stage, Variables, abstract_batch, collections_of, network_shapes

_SHOWN = 5


def check_stages(
    check_data: Callable[[Dataset], None],
    stages: Sequence[Stage],
    before: Mapping[str, Variables] | None = None,
) -> None:
    """Traces a step of every stage after the first with the shapes of its batches; nothing is compiled.

    Otherwise a stage that cannot be trained on its data says so after those before it have been trained, or
    when the first batch of another shape comes. The first stage's step on the largest shapes is not traced
    here: that is what its training begins with.

    Args:
      check_data: of the system, refuses data that would be trained on otherwise than asked.
      stages: in order.
      before: shapes of variables of stages that are not among them.

    Raises:
      ValueError: a stage and its data do not fit; it is named.
    """
    variables = dict(before or {})
    for stage in stages:
        try:
            check_data(stage.data)
        except ValueError as error:
            raise ValueError(f"stage {stage.name!r}: {error}") from error
    for number, stage in enumerate(stages):
        if stage.update is None:
            continue
        batch, key = abstract_batch(stage.data), jax.random.key(0)
        try:
            frozen = {name: variables[name] for name in stage.frozen}
            frozen |= {name: network_shapes(load) for name, load in stage.networks.items()}
            state = jax.eval_shape(stage.update.init, key, batch, frozen)
            for fields in stage.data.shapes()[0 if number else 1 :]:
                batch = abstract_batch(stage.data, fields)
                jax.eval_shape(stage.update, state, batch, frozen, key)
        except (ValueError, TypeError) as error:
            shapes = {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in batch.items()}
            raise ValueError(
                f"stage {stage.name!r} cannot be trained on batches of {shapes}: {error}"
            ) from error
        variables[stage.name] = {"params": state["params"], **collections_of(state)}


def check_labels(stage: Stage, source: Source) -> None:
    """Labels of a stage that reads classes lie in them.

    Raises:
      ValueError: some do not, or an unlabelled record has no meaning for the stage.
    """
    labels = source.labels() if stage.classes else None
    if labels is None:
        return
    outside, counts = np.unique(labels[labels >= stage.classes], return_counts=True)
    if outside.size:
        some = ", ".join(f"{label} ({count} records)" for label, count in zip(outside[:_SHOWN], counts))
        raise ValueError(
            f"stage {stage.name!r} knows {stage.classes} classes, labels 0 to {stage.classes - 1}, and the "
            f"data has {len(outside)} others: {some}{', ...' if outside.size > _SHOWN else ''}. Raise the "
            "number of classes, or leave these records out."
        )
    unlabelled = int((labels < 0).sum())
    if unlabelled == len(labels) or (unlabelled and not stage.null_class):
        raise ValueError(
            f"stage {stage.name!r} is conditioned on classes, and {unlabelled} of {len(labels)} records "
            "have no label. Give them labels (sub-folders, a column, .cls members), or train a model "
            "without classes."
        )


def data_summary(data: Dataset) -> str:
    """One line: how many records there are to train on, and how many of each class, if any."""
    source = data.open("train")
    return label_summary(source) if "label" in data.fields() else f"{len(source)} records"


def label_summary(source: Source) -> str:
    """One line: how many records, and how many of each class."""
    labels = source.labels()
    if labels is None:
        return f"{len(source)} records; their labels are checked as they are read"
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    name = lambda label: source.classes[label] if label < len(source.classes) else str(label)
    if len(values) <= 20:
        classes = ", ".join(f"{name(label)} {count}" for label, count in zip(values.tolist(), counts))
    else:
        classes = f"{len(values)} classes of {counts.min()} to {counts.max()} records"
    unlabelled = int((labels < 0).sum())
    without = f"{unlabelled} without a label" if unlabelled else ""
    return f"{len(source)} records: " + "; ".join(part for part in (classes, without) if part)
