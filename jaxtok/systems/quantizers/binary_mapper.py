"""The official layout of `BinaryMapper`, which has no tensors."""

import math
from collections.abc import Mapping
from typing import Any

from jaxtok.quantize.binary_mapper import BinaryMapper
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Table


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `BinaryMapper(**config["args"])`.

    Arguments of the class's forward pass are ours too: `temperature` and `deterministic` are the temperature
    in training, `straight_through` an attribute.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {"bits", "kl_loss_threshold", "deterministic_on_eval"}
    a = arguments_of(config, known, "BinaryMapper")
    forward = config.get("forward", {})
    module = BinaryMapper(
        a["bits"],
        temperature=0.0 if forward.get("deterministic") else float(forward.get("temperature", 1.0)),
        threshold=float(a.get("kl_loss_threshold", math.log(2))),
        straight_through=forward.get("straight_through", True),
    )
    return OfficialComponent("quantizer", module, {}, Table((), (r"power_two|codes|zero",)), "")
