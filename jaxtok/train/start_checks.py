"""What can be seen before the first step of a run: that data and model fit, and which labels there are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok.data.records import Source
from jaxtok.train.stage import Stage, Variables, abstract_batch, collections_of, network_shapes

_SHOWN = 5


def check_stages(model: Any, stages: Sequence[Stage], before: Mapping[str, Variables] | None = None) -> None:
    """Traces a step of every stage after the first with the shapes of its batches; nothing is compiled.

    Otherwise a stage that cannot be trained on its data says so after those before it have been trained, or
    when the first batch of another resolution comes. The first stage's step at the largest resolution is not
    traced here: that is what its training begins with.

    Args:
      model: sizes of the system.
      stages: in order.
      before: shapes of variables of stages that are not among them.

    Raises:
      ValueError: a stage and its data do not fit; it is named.
    """
    variables = dict(before or {})
    for stage in stages:
        check_images(model, stage)
        check_text(model, stage)
    for number, stage in enumerate(stages):
        batch, key = abstract_batch(stage.data), jax.random.key(0)
        try:
            frozen = {name: variables[name] for name in stage.frozen}
            frozen |= {name: network_shapes(load) for name, load in stage.networks.items()}
            state = jax.eval_shape(stage.update.init, key, batch, frozen)
            for side in sorted(set(stage.data.image_sizes), reverse=True)[0 if number else 1 :]:
                batch = abstract_batch(dataclasses.replace(stage.data, image_sizes=(side,)))
                jax.eval_shape(stage.update, state, batch, frozen, key)
        except (ValueError, TypeError) as error:
            shapes = {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in batch.items()}
            raise ValueError(
                f"stage {stage.name!r} cannot be trained on batches of {shapes}: {error}"
            ) from error
        variables[stage.name] = {"params": state["params"], **collections_of(state)}


def check_images(model: Any, stage: Stage) -> None:
    """Images of other channels than the model's would be broadcast in its losses; of other sizes it would be
    trained, and evaluated and sampled at its own.

    Raises:
      ValueError: channels differ, or the model's size is none of the data's.
    """
    own = getattr(model, "channels", stage.data.channels)
    if stage.data.channels != own:
        raise ValueError(
            f"data.channels is {stage.data.channels}, but model.channels is {own} (stage {stage.name!r}). "
            "Set both to 1 for grey or 3 for colour."
        )
    side = getattr(model, "image_size", None) or getattr(getattr(model, "codec", None), "image_size", None)
    if side and side not in stage.data.image_sizes:
        raise ValueError(
            f"data.image_sizes is {stage.data.image_sizes}, without the {side} pixels of the model (stage "
            f"{stage.name!r}). Set both alike."
        )


def check_text(model: Any, stage: Stage) -> None:
    """Captions that are read longer or shorter than the model samples from.

    Raises:
      ValueError: lengths differ.
    """
    length = getattr(model, "text_length", None) or getattr(getattr(model, "text", None), "length", None)
    if length and stage.data.text_length and length != stage.data.text_length:
        raise ValueError(
            f"data.text_length is {stage.data.text_length}, but the model reads texts of {length} tokens "
            f"(stage {stage.name!r}). Set both alike."
        )


def check_labels(stage: Stage, source: Source) -> None:
    """Labels of a stage that reads classes lie in them.

    Raises:
      ValueError: some do not, or an unlabelled image has no meaning for the stage.
    """
    labels = source.labels() if stage.classes else None
    if labels is None:
        return
    outside, counts = np.unique(labels[labels >= stage.classes], return_counts=True)
    if outside.size:
        some = ", ".join(f"{label} ({count} images)" for label, count in zip(outside[:_SHOWN], counts))
        raise ValueError(
            f"stage {stage.name!r} knows {stage.classes} classes, labels 0 to {stage.classes - 1}, and the "
            f"data has {len(outside)} others: {some}{', ...' if outside.size > _SHOWN else ''}. Raise the "
            "number of classes, or leave these images out."
        )
    unlabelled = int((labels < 0).sum())
    if unlabelled == len(labels) or (unlabelled and not stage.null_class):
        raise ValueError(
            f"stage {stage.name!r} is conditioned on classes, and {unlabelled} of {len(labels)} images "
            "have no label. Give them labels (sub-folders, a column, .cls members), or train a model "
            "without classes."
        )


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
