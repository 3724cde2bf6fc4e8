"""FlexTok's official constructor arguments, and what converts its weights."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxtok.systems.image.flextok_table import tokenizer_table
from jaxtok.systems.image.kl_vae import KLVAE
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.registers import RegisterShape


def from_official(config: Mapping[str, Any], published: Any) -> Any:
    """Our `FlexTok` from official constructor arguments.

    Args:
      config: "channels" and "patch" of the latents, "registers", "enc_dim", "dec_dim", "enc_depth",
        "dec_depth", "head_dim", "levels", "max_sizes" (cells that there are positions for), "posemb_scaling"
        ("absolute", "interpolate"), "enc_mask", "adaLN_expansion", "dec_posemb" ("sincos",
        "learnable_sum"), "latent_hw"; and "vae", the arguments of the autoencoder, without which the
        tokenizer reads latents as they are. "names" says what modules are called that the file calls
        otherwise than `flextok_table.MODULES`; "use_mup_readout" and "width_mult" see `read_out`.
      published: the `FlexTok` that says what is left out.

    Raises:
      ValueError: a width that the heads do not divide, or an unknown kind of positions.
    """
    head_dim = config.get("head_dim", 64)

    def half(side: str, default: RegisterShape) -> RegisterShape:
        width = config.get(f"{side}_dim", default.width)
        if width % head_dim:
            raise ValueError(f"{side}_dim={width} must divide by head_dim={head_dim}")
        return RegisterShape(config.get(f"{side}_depth", default.layers), width // head_dim, head_dim)

    kinds = {"sincos": "sincos", "learnable_sum": "learned"}
    places = tuple(config.get(f"{side}_posemb", "sincos") for side in ("enc", "dec"))
    if unknown := set(places) - set(kinds):
        raise ValueError(f"positions {sorted(unknown)}; choose 'sincos' or 'learnable_sum'")
    vae, official = None, config.get("vae")
    channels = config.get("channels", 16)
    if official is not None:
        widths = official.get("block_out_channels", [128, 256, 512, 512])
        vae = KLVAE(
            official.get("latent_channels", channels),
            official.get("in_channels", 3),
            widths[0],
            tuple(width // widths[0] for width in widths),
            official.get("layers_per_block", 2),
            official.get("norm_num_groups", 32),
            official.get("scaling_factor", KLVAE.scaling),
        )
    patch, grid = config.get("patch", published.patch), tuple(config.get("max_sizes", (16, 16)))
    side = config.get("latent_hw", (grid[0] * patch,))[0]
    return dataclasses.replace(
        published,
        image_size=side * (vae.factor if vae else 1),
        channels=channels if vae is None else vae.channels,
        vae=vae,
        patch=patch,
        tokens=config.get("registers", published.tokens),
        levels=tuple(config.get("levels", published.levels)),
        encoder=half("enc", published.encoder),
        decoder=half("dec", published.decoder),
        mask=config.get("enc_mask", published.mask),
        positions=tuple(kinds[kind] for kind in places),
        scaling=config.get("posemb_scaling", published.scaling),
        grid=grid,
        segments=config.get("adaLN_expansion", published.segments),
    )


def read_out(config: Mapping[str, Any]) -> float:
    """By how much the read-out at the decoder's end divides what it reads; 1 for a plain linear layer.

    Args:
      config: "use_mup_readout", whether it is a `mup.MuReadout`, and "width_mult", its width over that of its
        base shape. One of them implies the other, where it can.

    Raises:
      ValueError: a read-out whose divisor is not said (it stands in no file of weights), that is no positive
        number, or that contradicts the other argument.
    """
    scaled, factor = config.get("use_mup_readout", "width_mult" in config), config.get("width_mult", 1.0)
    if scaled and "width_mult" not in config:
        raise ValueError(
            "use_mup_readout=True: that read-out divides by its width over that of its base shape, which no "
            "file of weights says; set width_mult to it"
        )
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ValueError(
            f"width_mult={factor!r} must be a positive number: a width over that of its base shape"
        )
    if factor != 1 and not scaled:
        raise ValueError(
            f"width_mult={factor}, but use_mup_readout=False has no divisor; leave out one of them"
        )
    return float(factor)


def official_components(config: Mapping[str, Any] | None, published: Any) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model": the whole file; see `from_official`."""
    config = {"vae": {}} if config is None else config
    model, names = from_official(config, published), config.get("names", {})
    table = tokenizer_table(
        model.encoder,
        model.decoder,
        model.segments,
        (model.positions[0] == "learned", model.positions[1] == "learned"),
        model.vae,
        names,
        read_out(config),
    )
    signature = f"encoder.module_dict.{names.get('enc_to_latents', 'enc_to_latents')}.proj.weight"
    shapes = model.shapes()["tokenizer"]
    return {"model": OfficialComponent("tokenizer", model.tokenizer(), shapes, table, signature)}
