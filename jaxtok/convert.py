"""Official checkpoints to systems, and back.

>>> from jaxtok import convert                                                         # doctest: +SKIP
>>> loaded = convert.load("instella_t2i", "bae/model.safetensors", config)             # doctest: +SKIP
>>> bae = loaded["bae"]                                                                # doctest: +SKIP
>>> latents = bae.module.apply(bae.variables, images, method="encode")                 # doctest: +SKIP
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.json_files import check_object, parse_json
from jaxtok.param_trees import merge_collections, split_collections
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import OfficialConfig
from jaxtok.systems.registry import system_class, system_modules
from jaxtok.weights import Table, load_table, read_tensors, save_table

# What messages call a configuration that is text, and what they advise.
_CONFIG, _GIVE = "the official configuration", "Give the official arguments as `config`."

# A recording of an official model holds its inputs and outputs beside the weights, under this prefix.
RECORDED = "io."


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One component of an official checkpoint, ready for `module.apply(variables, ...)`.

    Attributes:
      role: what we call it: "tokenizer", "diffusion", ...
      module: Linen module of the checkpoint's configuration.
      variables: {"params": ...} and further collections, NumPy; floating-point leaves are float32.
      extras: official tensors that the module does not use, by their official name.
      table: the mapping, for `save`.
      prefix: what the component's tensors were called by in a file of several components, such as "bae.", or
        "".
      dtypes: of the official tensors, by name.
    """

    role: str
    module: Any
    variables: dict[str, Any]
    extras: dict[str, np.ndarray]
    table: Table = dataclasses.field(repr=False)
    prefix: str = ""
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict, repr=False)


def load(
    system: str,
    tensors: Mapping[str, Any] | str | os.PathLike,
    config: Mapping[str, Any] | str | None = None,
) -> dict[str, Loaded]:
    """Loads an official checkpoint, strictly.

    Args:
      system: name of a system with official weights, see `official_systems`.
      tensors: mapping of official tensor names to arrays, or a path to a safetensors, npz or (with PyTorch
        installed, `weights_only`) .pt file. Several components in one file stand behind prefixes ("bae.",
        "diff.", "ar."); a file of one component without prefix is recognised.
      config: official constructor arguments, as a mapping or JSON; default: the "config" entry of the file's
        metadata, else the published configuration.

    Returns:
      The components that the checkpoint holds, by name.

    Raises:
      ValueError: an unknown system; a key of `config` that nothing reads; nothing of the system in the file;
        missing, unexpected or mis-shaped tensors, all listed; or, beside several components, tensors of none
        (other than `RECORDED` ones).
    """
    _check_system(system)
    arrays, metadata = read_tensors(tensors)
    config = metadata.get("config") if config is None else config
    if isinstance(config, str):
        config = check_object(parse_json(config, _CONFIG, _GIVE), {}, _CONFIG, _GIVE)
    arguments: Mapping[str, Any] | None = config
    components = _components(system, arguments)

    loaded, rest = {}, dict(arrays)
    # A file of one component comes first: its own names may begin like a prefix ("model.").
    whole = [name for name, component in components.items() if component.signature in arrays]
    if len(whole) == 1:
        return {whole[0]: _load_component(components[whole[0]], rest, "")}
    for name, component in components.items():
        prefix = f"{name}."
        own = {key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)}
        if own or not (component.table.entries or component.table.unused):
            loaded[name] = _load_component(component, own, prefix)
    if not loaded:
        matches = [name for name, component in components.items() if component.signature in rest]
        matches = list(components) if len(components) == 1 else matches
        if len(matches) != 1:
            expected = ", ".join(f"{name}. ({part.signature})" for name, part in components.items())
            raise ValueError(
                f"no component of {system} among {len(rest)} tensors such as {sorted(rest)[:5]}; expected a "
                "prefix or a tensor of "
                f"{expected}"
            )
        return {matches[0]: _load_component(components[matches[0]], rest, "")}
    rest = {name: tensor for name, tensor in rest.items() if not name.startswith(RECORDED)}
    if rest:
        some = ", ".join(sorted(rest)[:5]) + (", ..." if len(rest) > 5 else "")
        raise ValueError(
            f"{len(rest)} tensors belong to no component of {system}: {some}. Its components are "
            f"{', '.join(f'{name}.' for name in components)}; leave other tensors out"
        )
    return loaded


def save(loaded: Loaded | Mapping[str, Loaded]) -> dict[str, np.ndarray]:
    """Official state dict of what `load` returned: every tensor of the checkpoint, used or not, under its
    official name and in the dtype that it had there.
    """
    if isinstance(loaded, Loaded):
        state = save_table(loaded.table, merge_collections(loaded.variables), loaded.extras)
        state = {
            name: np.asarray(tensor, loaded.dtypes.get(name, tensor.dtype)) for name, tensor in state.items()
        }
        return {f"{loaded.prefix}{name}": tensor for name, tensor in state.items()}
    return {name: tensor for component in loaded.values() for name, tensor in save(component).items()}


def export(
    system: str, variables: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Official state dict of variables that were trained here, for those who use the official code.

    Args:
      system: name of a system with official weights, see `official_systems`.
      variables: {"params": ...} and further collections by the checkpoint's components, such as "model"; the
        names of several stand before their tensors, as in `load`.
      config: official constructor arguments of the model that was trained; default: the published ones.

    Raises:
      ValueError: an unknown system or component, or variables of another configuration; all differences are
        listed.
    """
    _check_system(system)
    components = _components(system, config)
    if unknown := sorted(variables.keys() - components):
        raise ValueError(f"{system} has no components {unknown}; it has {sorted(components)}")
    state: dict[str, np.ndarray] = {}
    for name, own in variables.items():
        tensors = save_table(components[name].table, merge_collections(own), {})
        _load_component(components[name], tensors, "")  # which names what has another shape
        prefix = f"{name}." if len(components) > 1 else ""
        state |= {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    return state


def official_systems() -> list[str]:
    """Names of the systems that have official weights: their classes say what those are. Imports them all."""
    return [name for name in system_modules() if hasattr(system_class(name), "official_components")]


def _check_system(name: str) -> None:
    if name not in system_modules() or not hasattr(system_class(name), "official_components"):
        raise ValueError(f"no converter for {name!r}; there are converters for {official_systems()}")


def _components(system: str, config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """The components of a system in a configuration of which every key is read."""
    if config is None:
        return system_class(system).official_components(None)
    tracked = OfficialConfig(config)
    try:
        components = system_class(system).official_components(tracked)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{_CONFIG} of {system} makes no network ({type(error).__name__}: {error}): a size is 0, or a "
            f"value is of another kind than the official code takes. {_GIVE}"
        ) from error
    tracked.refuse_unread(system)
    return components


def _load_component(component: OfficialComponent, tensors: Mapping[str, np.ndarray], prefix: str) -> Loaded:
    tensors = {**component.defaults, **tensors}
    tree, extras = load_table(component.table, tensors, merge_collections(component.shapes))
    variables = split_collections(tree)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    return Loaded(component.role, component.module, variables, extras, component.table, prefix, dtypes)
