"""The official layouts of the residual quantizers and their grouped forms."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.neural_codebook import NeuralResidualQuantizer
from jaxtok.quantize.residual import GroupedQuantizer, ResidualQuantizer, inner_width, residual_fsq
from jaxtok.quantize.simvq import SimVQ
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers import lookup_free, reparametrised, vector
from jaxtok.systems.quantizers.scalar import projection_entries
from jaxtok.weights import Entry, Table, dense, squeeze_leading

# Arguments of the stack; the others belong to its depths.
_STACK = {
    "num_quantizers", "codebook_dim", "shared_codebook", "quantize_dropout", "quantize_dropout_cutoff_index",
    "quantize_dropout_multiple_of", "accept_image_fmap", "is_channel_first", "channel_first",
    "quant_grad_frac", "dim", "groups", "diveq", "codebook_size", "beam_size", "implicit_neural_codebook",
    "mlp_kwargs",
}  # fmt: skip


# Arguments of FSQ that a stack may hand on with the value that they have anyway.
_FSQ_DEFAULTS = {
    "num_codebooks": 1, "preserve_symmetry": False, "noise_dropout": 0.0, "orthogonal_rotation": False,
    "channel_first": False, "projection_has_bias": True, "return_indices": True,
    "force_quantization_f32": True,
}  # fmt: skip


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of a residual class, or of its grouped form.

    Raises:
      ValueError: arguments without counterpart.
    """
    name, arguments = config["class"], dict(config["args"])
    grouped = name.startswith("Grouped")
    if arguments.get("implicit_neural_codebook"):
        if grouped:
            raise ValueError("grouped stacks with implicit_neural_codebook have no counterpart here")
        return _neural(config)
    if grouped:
        groups, width = arguments.pop("groups", 1), arguments.pop("dim")
        one = {**config, "class": name.removeprefix("Grouped"), "args": {**arguments, "dim": width // groups}}
        modules = [stack(one) for _ in range(groups)]
        module: Any = GroupedQuantizer(tuple(modules))
        kind = "rvqs"
        entries, unused = [], []
        for i, part in enumerate(modules):
            own = _table(part, f"{kind}.{i}.", f"quantizers_{i}/", [])
            entries += own.entries
            unused += own.unused
        table = Table(tuple(entries), tuple(unused))
    else:
        module = stack(config)
        names = reparametrised.simvq(_simvq_config(config))[1] if name == "ResidualSimVQ" else []
        table, width = _table(module, "", "", names), module.width or inner_width(module.quantizers[0])
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, width))))
    shapes = vector.without_offsets(shapes)
    return OfficialComponent("quantizer", module, shapes, table, "layers.0._codebook.embed")


def _neural(config: Mapping[str, Any]) -> OfficialComponent:
    a = config["args"]
    known = {
        "dim", "codebook_size", "num_quantizers", "implicit_neural_codebook", "mlp_kwargs", "rotation_trick",
        "commitment_weight",
    }  # fmt: skip
    vector.arguments_of(config, known, "ResidualVQ with implicit_neural_codebook")
    networks = a.get("mlp_kwargs", {})
    module = NeuralResidualQuantizer(
        a["num_quantizers"],
        a["codebook_size"],
        a["dim"],
        networks.get("dim_hidden", 0),
        networks.get("depth", 4),
        a.get("commitment_weight", 1.0),
        "rotation" if a.get("rotation_trick", True) else "straight_through",
    )
    entries = [
        Entry(f"layers.{i}._codebook.embed", f"codebook_{i}", squeeze_leading(1)) for i in range(module.depth)
    ]
    for i in range(module.depth - 1):
        names = [("proj_in", "inward")]
        for j in range(module.layers):
            names += [(f"layers.{j}.0", f"up_{j}"), (f"layers.{j}.2", f"down_{j}")]
        for theirs, ours in names:
            path = f"networks_{i}/{ours}"
            entries.append(Entry(f"mlps.{i}.{theirs}.weight", f"{path}/kernel", dense))
            entries.append(Entry(f"mlps.{i}.{theirs}.bias", f"{path}/bias"))
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, module.width)))
    )
    unused = (r"layers\.\d+\._codebook\.(initted|cluster_size|embed_avg)",)
    return OfficialComponent(
        "quantizer", module, dict(shapes), Table(tuple(entries), unused), "mlps.0.proj_in.weight"
    )


def _simvq_config(config: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in config["args"].items() if name not in _STACK}
    own |= {name: config["args"][name] for name in ("dim", "codebook_size")}
    return {"class": "SimVQ", "args": own}


def stack(config: Mapping[str, Any]) -> ResidualQuantizer:
    """Our module for official arguments of a class that is not grouped."""
    # What is False stays: it may not be the default of a depth (rotation_trick, ema_update).
    a = {name: value for name, value in config["args"].items() if value is not None}
    own = {name: value for name, value in a.items() if name not in _STACK}
    kind, width = config["class"].removeprefix("Residual"), a.get("dim", 0)
    sizes = a.get("codebook_size", 0)
    depth = a.get("num_quantizers") or len(sizes)
    outer = {
        "dropout": bool(a.get("quantize_dropout")),
        "dropout_per": "batch",
        "at_least": a.get("quantize_dropout_cutoff_index", 0) + 1,
        "multiple_of": a.get("quantize_dropout_multiple_of", 1),
    }
    if kind == "FSQ":
        levels = tuple(own.pop("levels"))
        clamp = own.pop("soft_clamp_input_value", None)
        clamp = tuple(map(float, clamp)) if isinstance(clamp, Sequence) else clamp
        hard = config["args"].get("bound_hard_clamp", True)
        if hard and clamp is not None:
            raise ValueError(
                "soft_clamp_input_value is that of the levels where bound_hard_clamp is True; pass "
                "bound_hard_clamp=False with it"
            )
        own.pop("bound_hard_clamp", None)
        # Channels first is a matter of layout; `_STACK` has the stack's own word for it.
        others = sorted(name for name in own if name not in _FSQ_DEFAULTS or own[name] != _FSQ_DEFAULTS[name])
        if others:
            raise ValueError(f"{config['class']} with {others} has no counterpart here")
        return residual_fsq(depth, levels, width, clamp, "clip" if hard else "tanh", **outer)
    if kind == "LFQ":
        module = lookup_free.quantizer({**config, "args": {"codebook_size": sizes, **own}})
        clamp = module.soft_clamp
        depths = [
            dataclasses.replace(module, width=0, scale=2.0**-i, soft_clamp=clamp * 2.0**-i)
            for i in range(depth)
        ]
        return ResidualQuantizer(tuple(depths), depth, width, **outer)
    if kind == "SimVQ":
        child = reparametrised.simvq(_simvq_config(config))[0]
        return ResidualQuantizer(tuple(child.clone() for _ in range(depth)), depth, 0, **outer)
    inner = a.get("codebook_dim", width)
    directional = bool(a.get("diveq"))
    if directional:
        own |= {"directional_reparam": True}
    sizes = (sizes,) * depth if isinstance(sizes, int) else tuple(sizes)
    shared = bool(a.get("shared_codebook"))
    depths = [
        vector.quantizer({"args": {"dim": inner, "codebook_size": k, **own}})
        for k in (sizes[:1] if shared else sizes)
    ]
    if directional:
        depths = [
            dataclasses.replace(module, routing="straight_through", commitment=0.0) for module in depths
        ]
    return ResidualQuantizer(
        tuple(depths),
        depth,
        width,
        gradient_fraction=a.get("quant_grad_frac", 0.0),
        routing="directional" if directional else "each",
        beam=a.get("beam_size", 1),
        **outer,
    )


def _table(module: ResidualQuantizer, theirs: str, ours: str, names: list[str]) -> Table:
    entries = (
        projection_entries(theirs, ours)
        if module.width and module.width != inner_width(module.quantizers[0])
        else []
    )
    unused = []
    for i, child in enumerate(module.quantizers):
        if hasattr(child, "learning"):
            own = vector.table(child, f"{theirs}layers.{i}.", f"{ours}quantizers_{i}/")  # pyright: ignore
            entries += own.entries
            unused += own.unused
        elif isinstance(child, SimVQ):
            own = reparametrised.simvq_table(child, names, f"{theirs}layers.{i}.", f"{ours}quantizers_{i}/")
            entries += own.entries
        else:
            unused.append(rf"{theirs}layers\.{i}\.mask")
    if module.shared:  # the official class lists the one codebook once per depth
        unused.append(rf"{theirs}layers\.[1-9]\d*\._codebook\..*")
    return Table(tuple(entries), tuple(unused))
