"""The official layouts of `SimVQ`, and of `VectorQuantize` with a linear or small network as `vq_bridge`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.simvq import SimVQ
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Entry, Table, dense, squeeze_leading

_ACTIVATIONS = {
    "ReLU()": "relu",
    "SiLU()": "silu",
    "GELU(approximate='none')": "gelu",
    "GELU(approximate='tanh')": "gelu_tanh",
    "Tanh()": "tanh",
    "Sigmoid()": "sigmoid",
    "LeakyReLU(negative_slope=0.01)": "leaky_relu",
    "ELU(alpha=1.0)": "elu",
    "Identity()": "identity",
}
_LINEAR = re.compile(r"Linear\(in_features=(\d+), out_features=(\d+), bias=(True|False)\)")


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `SimVQ(**config["args"])` or of a bridged `VectorQuantize`.

    Raises:
      ValueError: arguments without counterpart.
    """
    module, names = (simvq if config["class"] == "SimVQ" else bridged)(config)
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 1, module.width)))
    )
    if config["class"] == "SimVQ":
        table = simvq_table(module, names)
        return OfficialComponent("quantizer", module, dict(shapes), table, "frozen_codebook")
    layers = _layers(module, names, "_codebook.vq_bridge")
    entries = [Entry("_codebook.embed", "codebook", squeeze_leading(1)), *layers]
    unused = (r"_codebook\.(initted|cluster_size|embed_avg)",)
    table = Table(tuple(entries), unused)
    return OfficialComponent("quantizer", module, dict(shapes), table, "_codebook.embed")


def simvq(config: Mapping[str, Any]) -> tuple[SimVQ, list[str]]:
    """Our module for official arguments, and the official names of the layers of the map."""
    known = {
        "dim", "codebook_size", "codebook_transform", "rotation_trick", "commitment_weight",
        "frozen_codebook_dim", "input_to_quantize_commit_loss_weight", "channel_first", "init_fn",
        "accept_image_fmap",
    }  # fmt: skip
    a = arguments_of(config, known, "SimVQ")
    layers, names = _network(a.get("codebook_transform"), "SimVQ")
    weight = float(a.get("commitment_weight", 1.0))
    module = SimVQ(
        a["codebook_size"],
        a["dim"],
        commitment=weight * float(a.get("input_to_quantize_commit_loss_weight", 0.25)),
        codebook_weight=weight,
        routing="rotation" if a.get("rotation_trick", True) else "straight_through",
        code_width=a.get("frozen_codebook_dim", 0),
        **layers,
    )
    return module, names


def bridged(config: Mapping[str, Any]) -> tuple[SimVQ, list[str]]:
    """Our module for a `VectorQuantize` with a bridge, and the official names of the layers of the bridge."""
    known = {
        "dim", "codebook_size", "vq_bridge", "rotation_trick", "commitment_weight", "learnable_codebook",
        "channel_last", "accept_image_fmap", "accept_3d_fmap", "ema_update",
    }  # fmt: skip
    a = arguments_of(config, known, "VectorQuantize with vq_bridge")
    layers, names = _network(a["vq_bridge"], "vq_bridge")
    weight = float(a.get("commitment_weight", 1.0))
    module = SimVQ(
        a["codebook_size"],
        a["dim"],
        # One official term moves features and codes: without detaching, it is the sum of both of ours.
        commitment=weight,
        codebook_weight=weight,
        routing="rotation" if a.get("rotation_trick", a["dim"] > 1) else "straight_through",
        learn_codes=True,
        **layers,
    )
    return module, names


def simvq_table(module: SimVQ, names: list[str], prefix: str = "", ours: str = "") -> Table:
    """Names of one quantizer's tensors, behind a prefix on both sides."""
    entries = [Entry(f"{prefix}frozen_codebook", f"quantizer:{ours}codebook")]
    return Table((*entries, *_layers(module, names, f"{prefix}code_transform", ours)))


def _layers(module, names, prefix, ours=""):
    bias = bool(module.hidden) if module.use_bias is None else module.use_bias
    entries = []
    for i, name in enumerate(names):
        official = f"{prefix}.{name}" if name else prefix
        entries.append(Entry(f"{official}.weight", f"{ours}map_{i}/kernel", dense))
        if bias:
            entries.append(Entry(f"{official}.bias", f"{ours}map_{i}/bias"))
    return entries


def _network(description: str | None, what: str) -> tuple[dict[str, Any], list[str]]:
    """Attributes of our map, and names of its layers, from the printed form of a PyTorch module."""
    if not description:
        return {"hidden": (), "use_bias": False}, [""]
    if single := _LINEAR.fullmatch(description.strip()):
        return {"hidden": (), "use_bias": single[3] == "True"}, [""]
    widths, biases, activations, names = [], set(), [], []
    for line in description.strip().splitlines()[1:-1]:
        name, _, layer = line.strip().partition(": ")
        if match := _LINEAR.fullmatch(layer):
            widths.append(int(match[2]))
            biases.add(match[3] == "True")
            names.append(name.strip("()"))
        else:
            activations.append(_ACTIVATIONS.get(layer, layer))
    regular = len(biases) == 1 and len(set(activations)) <= 1 and len(activations) == len(widths) - 1
    if not regular or not set(activations) <= set(_ACTIVATIONS.values()):
        raise ValueError(
            f"{what} with the network {description!r} has no counterpart here; known are linear layers, all "
            f"with or all without bias, with one kind of activation between out of {sorted(_ACTIVATIONS)}"
        )
    layers = {"hidden": tuple(widths[:-1]), "use_bias": biases.pop()}
    return layers | ({"activation": activations[0]} if activations else {}), names
