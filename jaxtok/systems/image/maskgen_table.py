"""Official weights of MaskGen's generators (code bytedance/1d-tokenizer): configuration and names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtok.systems.image.maskgen_generator import MaskGenerator
from jaxtok.systems.image.titok_table import TOKENIZER_KEYS
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import OF_A_RUN, set_aside
from jaxtok.weights import Entry, Table, dense, squeeze_leading


def from_official(config: Mapping[str, Any]) -> MaskGenerator:
    """Our configuration from an official one: "model" with "vq_model" and "maskgen", and "losses"; what is
    left out is as in the released L of that kind, but for the score that samples ask for, whose official
    default is 6.0.

    Raises:
      ValueError: another `quantize_mode` than "vq" or "vae", other masks than by arccos, or a width that the
        heads do not divide.
    """
    model, losses = config.get("model", config), config.get("losses", {})
    codec, official = model.get("vq_model", {}), model.get("maskgen", {})
    set_aside(config, *(section for section in OF_A_RUN if section != "losses"))
    set_aside(losses, "label_smoothing", "loss_weight_unmasked_token", "num_sampling_steps")
    set_aside(losses, "diffloss_d", "diffloss_w")  # of the other kind of generator
    set_aside(codec, *TOKENIZER_KEYS)
    mode = codec.get("quantize_mode", "vq")
    if mode not in ("vq", "vae"):
        raise ValueError(f"quantize_mode={mode!r}; choose 'vq' or 'vae'")
    if (schedule := official.get("mask_schedule_strategy", "arccos")) != "arccos":
        raise ValueError(f"mask_schedule_strategy={schedule!r}; the released generators mask by 'arccos'")
    published = MaskGenerator.vq_l() if mode == "vq" else MaskGenerator.kl_l()
    settings, value_settings = published.settings, published.value_settings
    guidance, temperature = official.get("cfg"), official.get("temperature")
    if mode == "vq":
        temperature = settings.temperature if temperature is None else temperature
        settings = dataclasses.replace(
            settings,
            steps=official.get("num_iter", settings.steps),
            guidance=settings.guidance if guidance is None else guidance,
            temperature=temperature,
            choice_temperature=temperature,
        )
    else:
        value_settings = dataclasses.replace(
            value_settings,
            steps=official.get("num_iter", value_settings.steps),
            # Official strengths mean u + s (c - u).
            guidance=value_settings.guidance if guidance is None else guidance - 1,
            guidance_schedule=official.get("cfg_schedule", value_settings.guidance_schedule),
            temperature=value_settings.temperature if temperature is None else temperature,
            diffusion_steps=int(losses.get("num_sampling_steps", value_settings.diffusion_steps)),
        )
    text = dataclasses.replace(
        published.text,
        length=codec.get("text_context_length", published.text.length),
        width=codec.get("text_embed_dim", published.text.width),
    )
    score_width = official.get("micro_condition_embed_dim", published.score_width)
    return dataclasses.replace(
        published,
        tokens=codec.get("num_latent_tokens", published.tokens),
        codebook=codec.get("codebook_size", published.codebook),
        classes=official.get("condition_num_classes", published.classes),
        tied=official.get("weight_tying", True),
        layers=official.get("decoder_depth", published.layers),
        heads=official.get("decoder_num_heads", published.heads),
        width=official.get("decoder_embed_dim", published.width),
        text=text,
        score_width=score_width if official.get("micro_condition", True) else 0,
        score=official.get("sample_aesthetic_score", 6.0),
        condition_dropout=official.get("text_drop_prob", published.condition_dropout),
        settings=settings,
        channels=codec.get("token_size", published.channels) if mode == "vae" else published.channels,
        scale=codec.get("scale_factor", published.scale),
        repeats=official.get("diffusion_batch_mul", published.repeats),
        denoiser_layers=losses.get("diffloss_d", published.denoiser_layers),
        denoiser_width=losses.get("diffloss_w", published.denoiser_width),
        value_settings=value_settings,
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model": the generator. The tokenizer has a file of
    its own, that of "tatitok".
    """
    model = MaskGenerator.vq_l() if config is None else from_official(config)
    codes = model.kind == "vq"
    table = code_table(model) if codes else value_table(model)
    signature = "embeddings.weight" if codes else "mask_token"
    return {"model": OfficialComponent("masked", model.network(), model.shapes(), table, signature)}


def code_table(model: MaskGenerator) -> Table:
    """Names and layouts of a generator over codes."""
    entries = [
        *_linear("text_embed_proj", "backbone/context"),
        *_linear("cond_pooled_proj", "backbone/vector"),
        *_blocks("blocks", model.layers),
        *_linear("norm.linear", "backbone/norm/modulation/linear"),
        Entry("embeddings.weight", "table"),
        Entry("pos_embed", "positions", squeeze_leading(1)),
    ]
    if model.tied:
        # The same tensor under a second name, in some files.
        return Table(tuple(entries), unused=(r"lm_head\.weight",))
    return Table((*entries, *_linear("lm_head", "out")))


def value_table(model: MaskGenerator) -> Table:
    """Names and layouts of a generator over continuous latents."""
    net, denoiser, layers = "diffloss.net", "denoiser", range(model.denoiser_layers)
    theirs, ours = f"{net}.res_blocks.{{i}}", f"{denoiser}/stack/block"
    return Table(
        (
            *_linear("text_emb", "backbone/context"),
            *_linear("text_pooled_emb", "backbone/vector"),
            *_blocks("decoder_blocks", model.layers),
            *_linear("decoder_norm.linear", "backbone/norm/modulation/linear"),
            *_linear("z_proj", "embed"),
            *_norm("z_proj_ln", "norm"),
            Entry("mask_token", "mask", squeeze_leading(2)),
            Entry("decoder_pos_embed_learned", "positions", squeeze_leading(1)),
            Entry("diffusion_pos_embed_learned", "places", squeeze_leading(1)),
            *_linear(f"{net}.time_embed.mlp.0", f"{denoiser}/time/linear_1"),
            *_linear(f"{net}.time_embed.mlp.2", f"{denoiser}/time/linear_2"),
            *_linear(f"{net}.cond_embed", f"{denoiser}/conditioning"),
            *_linear(f"{net}.input_proj", f"{denoiser}/in"),
            *_norm(f"{theirs}.in_ln", f"{ours}/norm", layers),
            *_linear(f"{theirs}.mlp.0", f"{ours}/feed_forward/up", layers),
            *_linear(f"{theirs}.mlp.2", f"{ours}/feed_forward/down", layers),
            *_linear(f"{theirs}.adaLN_modulation.1", f"{ours}/modulation/linear", layers),
            *_linear(f"{net}.final_layer.adaLN_modulation.1", f"{denoiser}/modulation/linear"),
            *_linear(f"{net}.final_layer.linear", f"{denoiser}/out"),
        )
    )


def _linear(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", dense, layers),
        Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers),
    ]


def _norm(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/scale", indices=layers),
        Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers),
    ]


def _blocks(theirs: str, depth: int) -> list[Entry]:
    repeated, last = range(depth - 1), depth - 1
    stack = _block(f"{theirs}.{{i}}", "backbone/stack/block", repeated) if repeated else []
    return [*stack, *_block(f"{theirs}.{last}", "backbone/last", None)]


def _block(theirs: str, ours: str, layers: range | None) -> list[Entry]:
    """A block of two streams; in the last one, where `layers` is None, the text is only read."""
    maps = {
        "norm1.linear": "tokens/modulation/linear",
        "attn.to_q": "tokens/attention/query",
        "attn.to_k": "tokens/attention/key",
        "attn.to_v": "tokens/attention/value",
        "attn.to_out.0": "tokens/attention/out",
        "ff.net.0.proj": "tokens/feed_forward/up",
        "ff.net.2": "tokens/feed_forward/down",
        "attn.add_q_proj": "text/attention/query",
        "attn.add_k_proj": "text/attention/key",
        "attn.add_v_proj": "text/attention/value",
    }
    if layers is None:
        maps["norm1_context.linear"] = "text/norm/modulation/linear"
    else:
        maps["norm1_context.linear"] = "text/modulation/linear"
        maps["attn.to_add_out"] = "text/attention/out"
        maps["ff_context.net.0.proj"] = "text/feed_forward/up"
        maps["ff_context.net.2"] = "text/feed_forward/down"
    return [entry for a, b in maps.items() for entry in _linear(f"{theirs}.{a}", f"{ours}/{b}", layers)]
