"""What a system file says about official checkpoints of its kind."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.weights import Table


@dataclasses.dataclass(frozen=True)
class OfficialComponent:
    """One component of an official checkpoint (tokenizer, prior, ...).

    Attributes:
      role: what we call it: "tokenizer", "diffusion", ...
      module: Linen module of the same configuration.
      shapes: its variables, as shapes.
      table: names and layouts of the official state dict (without the component's prefix). Leaves of other
        collections than the parameters are called "collection:path", such as "quantizer:codebook".
      signature: a tensor name that only this component has; recognises a file that holds one component
        without prefix.
      defaults: official tensors that a checkpoint may lack, by name.
    """

    role: str
    module: Any
    shapes: dict[str, Any]
    table: Table
    signature: str
    defaults: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
