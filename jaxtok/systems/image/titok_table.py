"""Official weights of TiTok and TA-TiTok (code bytedance/1d-tokenizer): configuration and names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.grid_table import dense_entries, grid_entries, norm_entries
from jaxtok.systems.image.maskgit_vqgan import DECODER_NAMES, MaskGITVQGAN
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import OF_A_RUN, require_same, set_aside
from jaxtok.systems.quantizers.vector import without_offsets
from jaxtok.tokenizers.latent_vit import LatentViTShape
from jaxtok.weights import Entry, Table, conv, dense, patch_dense, squeeze_leading

# Keys of the tokenizer's section, which stands in the files of the generators too.
TOKENIZER_KEYS = (
    *("quantize_mode", "codebook_size", "token_size", "use_l2_norm", "commitment_cost", "clustering_vq"),
    *("vit_enc_model_size", "vit_dec_model_size", "vit_enc_patch_size", "vit_dec_patch_size"),
    *("num_latent_tokens", "finetune_decoder", "is_legacy", "text_context_length", "text_embed_dim"),
    *("scale_factor", "pretrained_tokenizer_weight"),
)


def from_official(config: Mapping[str, Any], published: Any) -> Any:
    """Our configuration, a `TiTok`, from an official one.

    Args:
      config: with "model" ("vq_model": the tokenizer) and "dataset" ("preprocessing": "crop_size"), or these
        under "titok" beside "sizes" (width, layers and heads of the named ViTs) and "pixel" (codes, dim,
        mult, hidden and res_blocks of the VQGAN), where they are not the published ones; "text" says whether
        the decoder reads text.
      published: what is left out is as in the official code, or else as in this size.

    Raises:
      ValueError: an unknown mode, or a decoder that is to be tuned through the VQGAN though it writes pixels.
    """
    official = config.get("titok", config)
    vq = official.get("model", {}).get("vq_model", {})
    mode, legacy = vq.get("quantize_mode", "vq"), vq.get("is_legacy", True)
    if mode not in ("vq", "vae"):
        raise ValueError(f"quantize_mode={mode!r}; choose 'vq' or 'vae'")
    if vq.get("finetune_decoder", True) and (mode != "vq" or not legacy):
        raise ValueError(
            f"finetune_decoder=True goes with quantize_mode='vq' and is_legacy=True, got {mode!r} and "
            f"{legacy}; only then the decoder ends in codes that the VQGAN can draw"
        )

    def vit(side: str, default: LatentViTShape) -> LatentViTShape:
        size = vq.get(f"vit_{side}_model_size")
        if size is None:
            return default
        if "sizes" not in config:
            return LatentViTShape.named(size, remat=default.remat)
        return LatentViTShape(*(config["sizes"][name][size] for name in ("width", "layers", "heads")))

    set_aside(config, "sizes")  # of the named sizes only two are used
    set_aside(official, *OF_A_RUN)
    set_aside(official.get("model", {}), "generator", "maskgen")  # whole systems have one file
    set_aside(vq, "pretrained_tokenizer_weight", "scale_factor")  # the teacher's file, and a prior's factor
    preprocessing = official.get("dataset", {}).get("preprocessing", {})
    image_size = preprocessing.get("crop_size", published.image_size)
    require_same(config, "image_size", image_size, "crop_size")
    has_text = config.get("text", bool(published.text_length))
    return dataclasses.replace(
        published,
        image_size=image_size,
        patch=vq.get("vit_enc_patch_size", published.patch),
        decoder_patch=vq.get("vit_dec_patch_size", published.decoder_patch),
        tokens=vq.get("num_latent_tokens", published.tokens),
        quantizer=_quantizer(vq, published.quantizer, has_text),
        width=vq.get("token_size", published.width),
        encoder=vit("enc", published.encoder),
        decoder=vit("dec", published.decoder),
        head="codes" if legacy else "pixels",
        interleaved=legacy,
        teacher=_teacher(config.get("pixel"), published.teacher),
        text_length=vq.get("text_context_length", published.text_length or 77) if has_text else 0,
        text_width=vq.get("text_embed_dim", published.text_width),
    )


def _quantizer(vq: Mapping[str, Any], published: VQConfig, has_text: bool) -> QuantizerConfig:
    # Files of Gaussian latents have the settings of codes too, without effect.
    codes = VQConfig(
        codes=vq.get("codebook_size", published.codes),
        metric="cosine" if vq.get("use_l2_norm", published.metric == "cosine") else "euclidean",
        # Of the two official classes only TA-TiTok's hands the flag on to its quantizer.
        learning="cvq" if vq.get("clustering_vq", False) and has_text else "gradient",
        commitment=vq.get("commitment_cost", published.commitment),
    )
    return codes if vq.get("quantize_mode", "vq") == "vq" else GaussianConfig()


def _teacher(pixel: Mapping[str, Any] | None, published: MaskGITVQGAN) -> MaskGITVQGAN:
    if pixel is None:
        return published
    shape = dataclasses.replace(
        published.shape,
        channels=pixel["hidden"],
        multipliers=tuple(pixel["mult"]),
        blocks=pixel["res_blocks"],
        middle=pixel["res_blocks"],  # the official network has as many there
        features=pixel["dim"],
    )
    quantizer: Any = published.quantizer
    quantizer = dataclasses.replace(quantizer, codes=pixel["codes"])
    return dataclasses.replace(published, quantizer=quantizer, shape=shape)


def official_components(config: Mapping[str, Any] | None, published: Any) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the one official component, "model"; of the first stage, where the
    configuration says that the decoder is not tuned.
    """
    model, tuned = published, True
    if config is not None:
        model = from_official(config, published)
        tuned = config.get("titok", config).get("model", {}).get("vq_model", {}).get("finetune_decoder", True)
    first = model.head == "codes" and not tuned
    role = "proxy" if first else "tokenizer"
    return {
        "model": OfficialComponent(
            role,
            model.proxy() if first else model.tokenizer(),
            without_tokens(model.shapes_of(role)),
            table(model, first),
            "encoder.class_embedding",
        )
    }


def without_tokens(variables: dict[str, Any]) -> dict[str, Any]:
    """Variables without what the state of our quantizers has beyond the official one."""
    variables = without_offsets(variables)
    state = {
        name: {key: value for key, value in tree.items() if key != "tokens"}
        for name, tree in variables.get("quantizer", {}).items()
    }
    return {**variables, "quantizer": state} if state else variables


def table(model: Any, first: bool = False) -> Table:
    """Names and layouts of a tokenizer.

    Args:
      model: its sizes, a `TiTok`.
      first: of the first stage, without the decoder of pixels.
    """
    entries = [
        Entry("latent_tokens", "encoder/latents"),
        Entry("encoder.patch_embed.weight", "encoder/patch/kernel", patch_dense(model.patch, model.channels)),
        Entry("encoder.patch_embed.bias", "encoder/patch/bias"),
        *_tokens("encoder", "encoder", model.encoder),
        *dense_entries("encoder.conv_out", "encoder/out", model.encoder.width),
    ]
    ours = "decoder/predictor" if model.head == "codes" else "decoder"
    width = model.decoder.width
    entries += [
        *dense_entries("decoder.decoder_embed", f"{ours}/in"),
        Entry("decoder.mask_token", f"{ours}/mask", squeeze_leading(1)),
        *_tokens("decoder", ours, model.decoder),
    ]
    if model.text_length:
        entries += dense_entries("decoder.text_guidance_proj", f"{ours}/text")
        entries.append(Entry("decoder.text_guidance_positional_embedding", f"{ours}/text_positions"))
    if model.head == "codes":
        entries += dense_entries("decoder.ffn.0", f"{ours}/hidden", width)
        entries += dense_entries("decoder.ffn.2", f"{ours}/codes", 2 * width)
    else:
        entries += dense_entries("decoder.ffn.0", f"{ours}/pixels", width)
        entries.append(Entry("decoder.conv_out.weight", f"{ours}/smooth/kernel", conv))
        entries.append(Entry("decoder.conv_out.bias", f"{ours}/smooth/bias"))
    if model.head == "codes" and not first:
        entries.append(Entry("pixel_quantize.embedding.weight", "decoder/codebook"))
        entries += grid_entries(
            model.teacher.shape, "decoder", DECODER_NAMES, "pixel_decoder", "decoder/pixels"
        )
    if isinstance(model.quantizer, VQConfig):
        entries.append(Entry("quantize.embedding.weight", "quantizer/codebook"))
        if model.quantizer.learning == "cvq":
            entries.append(Entry("quantize.embed_prob", "quantizer:quantizer/usage"))
    return Table(tuple(entries))


def _tokens(theirs: str, ours: str, shape: LatentViTShape) -> list[Entry]:
    """The sequence of one half and its transformer."""
    layers, block = range(shape.layers), f"{ours}/tokens/stack/block"
    layer = f"{theirs}.transformer.{{i}}"
    entries = [
        Entry(f"{theirs}.class_embedding", f"{ours}/tokens/class"),
        Entry(f"{theirs}.positional_embedding", f"{ours}/tokens/positions"),
        Entry(f"{theirs}.latent_token_positional_embedding", f"{ours}/tokens/latent_positions"),
        *norm_entries(f"{theirs}.ln_pre", f"{ours}/tokens/norm_in"),
        *norm_entries(f"{theirs}.ln_post", f"{ours}/norm"),
    ]
    for part, name in enumerate(("query", "key", "value")):
        packed, leaf = f"{layer}.attn.in_proj", f"{block}/attention/{name}"
        entries.append(Entry(f"{packed}_weight", f"{leaf}/kernel", dense, layers, (part, 3)))
        entries.append(Entry(f"{packed}_bias", f"{leaf}/bias", indices=layers, part=(part, 3)))
    maps = {
        "attn.out_proj": "attention/out",
        "mlp.c_fc": "feed_forward/up",
        "mlp.c_proj": "feed_forward/down",
    }
    for official, own in maps.items():
        entries.append(Entry(f"{layer}.{official}.weight", f"{block}/{own}/kernel", dense, layers))
        entries.append(Entry(f"{layer}.{official}.bias", f"{block}/{own}/bias", indices=layers))
    for official, own in {"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}.items():
        entries.append(Entry(f"{layer}.{official}.weight", f"{block}/{own}/scale", indices=layers))
        entries.append(Entry(f"{layer}.{official}.bias", f"{block}/{own}/bias", indices=layers))
    return entries
