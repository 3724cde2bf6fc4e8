"""The classes of `lucidrains/vector-quantize-pytorch`, by name.

>>> from jaxtok import convert                                                     # doctest: +SKIP
>>> config = {"class": "VectorQuantize", "args": {"dim": 16, "codebook_size": 32}}
>>> quantizer = convert.load("vector_quantize_pytorch", state_dict, config)["model"]  # doctest: +SKIP
"""

import importlib
from collections.abc import Mapping
from typing import Any

from jaxtok.systems.official import OfficialComponent

# Each module has `component(config) -> OfficialComponent`.
_MODULES = {
    "VectorQuantize": "vector",
    "ResidualVQ": "residual",
    "GroupedResidualVQ": "residual",
    "ResidualLFQ": "residual",
    "GroupedResidualLFQ": "residual",
    "ResidualFSQ": "residual",
    "GroupedResidualFSQ": "residual",
    "ResidualSimVQ": "residual",
    "HierarchicalVQ": "multi_scale",
    "LFQ": "lookup_free",
    "FSQ": "scalar",
    "FSP": "scalar",
    "SimVQ": "reparametrised",
    "LatentQuantize": "latent",
    "RandomProjectionQuantizer": "random_projection",
    "BinaryMapper": "binary_mapper",
}


class VectorQuantizePytorch:
    """What `jaxtok.convert` asks a system for."""

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """The quantizer of a configuration.

        Args:
          config: `{"class": name, "args": constructor arguments}`, or several of them by name (then the
            tensors of each stand behind the prefix "model.NAME.").

        Returns:
          The component "model", or "model.NAME" for each.

        Raises:
          ValueError: no configuration, an unknown class, or arguments that the quantizer cannot have.
        """
        if not config:
            raise ValueError(
                'quantizers have no default size; give config={"class": ..., "args": {...}} with a class of '
                f"{sorted(_MODULES)}"
            )
        if "class" in config:
            return {"model": _component(config)}
        return {
            f"model.{name}": _component(one)
            for name, one in config.items()
            if "class" in one  # a recording may have notes beside its configurations
        }


def _component(config: Mapping[str, Any]) -> OfficialComponent:
    name = config["class"]
    if name not in _MODULES:
        raise ValueError(f"no quantizer of class {name!r}; there are {sorted(_MODULES)}")
    # A bridge over the codebook makes it a map of another one, as in SimVQ.
    file = "reparametrised" if config.get("args", {}).get("vq_bridge") else _MODULES[name]
    module = importlib.import_module(f"jaxtok.systems.quantizers.{file}")
    return module.component(config)


SYSTEM = VectorQuantizePytorch
