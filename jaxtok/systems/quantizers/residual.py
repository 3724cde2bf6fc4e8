"""The official layouts of the residual quantizers and their grouped forms."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.residual import GroupedQuantizer, ResidualQuantizer, inner_width, residual_fsq
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers import lookup_free, vector
from jaxtok.systems.quantizers.scalar import projection_entries
from jaxtok.weights import Entry, Table

# Arguments of the stack; the others belong to its depths.
_STACK = {
    "num_quantizers", "codebook_dim", "shared_codebook", "quantize_dropout", "quantize_dropout_cutoff_index",
    "quantize_dropout_multiple_of", "accept_image_fmap", "is_channel_first", "channel_first", "quant_grad_frac",
    "dim", "groups", "diveq", "codebook_size",
}  # fmt: skip


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of a residual class, or of its grouped form.

    Raises:
      ValueError: arguments without counterpart.
    """
    name, arguments = config["class"], dict(config["args"])
    grouped = name.startswith("Grouped")
    if grouped:
        groups, width = arguments.pop("groups", 1), arguments.pop("dim")
        one = {**config, "class": name.removeprefix("Grouped"), "args": {**arguments, "dim": width // groups}}
        modules = [stack(one) for _ in range(groups)]
        module: Any = GroupedQuantizer(tuple(modules))
        kind = "rvqs"
        entries, unused = [], []
        for i, part in enumerate(modules):
            own = _table(part, f"{kind}.{i}.", f"quantizers_{i}/")
            entries += own.entries
            unused += own.unused
        table = Table(tuple(entries), tuple(unused))
    else:
        module = stack(config)
        table, width = _table(module, "", ""), module.width or inner_width(module.quantizers[0])
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, width))))
    return OfficialComponent("quantizer", module, dict(shapes), table, "layers.0._codebook.embed")


def stack(config: Mapping[str, Any]) -> ResidualQuantizer:
    """Our module for official arguments of a class that is not grouped."""
    a = {name: value for name, value in config["args"].items() if value is not None and value is not False}
    own = {name: value for name, value in a.items() if name not in _STACK}
    kind, width = config["class"].removeprefix("Residual"), a.get("dim", 0)
    sizes = a.get("codebook_size", 0)
    depth = a.get("num_quantizers") or len(sizes)
    outer = {
        "dropout": bool(a.get("quantize_dropout")),
        "at_least": a.get("quantize_dropout_cutoff_index", 0) + 1,
        "multiple_of": a.get("quantize_dropout_multiple_of", 1),
    }
    if kind == "FSQ":
        levels = tuple(own.pop("levels"))
        clamp = own.pop("soft_clamp_input_value", None)
        hard = config["args"].get("bound_hard_clamp", True)
        own.pop("bound_hard_clamp", None)
        vector.arguments_of({"args": own}, set(), config["class"])
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
        from jaxtok.systems.quantizers import reparametrised

        inner = {name: value for name, value in own.items()}
        one = {"args": {"dim": width, "codebook_size": sizes, **inner}}
        return ResidualQuantizer(tuple(reparametrised.simvq(one) for _ in range(depth)), depth, 0, **outer)
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
        **outer,
    )


def _table(module: ResidualQuantizer, theirs: str, ours: str) -> Table:
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
        elif hasattr(child, "transform"):
            from jaxtok.systems.quantizers import reparametrised

            own = reparametrised.table(child, f"{theirs}layers.{i}.", f"{ours}quantizers_{i}/")
            entries += own.entries
        else:
            unused.append(rf"{theirs}layers\.{i}\.mask")
    if module.shared:  # the official class lists the one codebook once per depth
        unused.append(rf"{theirs}layers\.[1-9]\d*\._codebook\..*")
    return Table(tuple(entries), tuple(unused))
