"""Renamed names, so that configurations, checkpoints and token files of earlier versions still load.

Everything that reads a stored name asks here; nothing is written under an old one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Class -> old field -> today's field.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "Config": {"judge": "scorer", "adversary": "discriminator"},
    "TokenizerWeights": {"pixels": "reconstruction", "pixel_weight": "reconstruction_weight"},
    "Manifest": {"crops": "augmentations"},
    "LlamaGen": {"told": "conditioning"},
    "FlexTok": {"told": "conditioning"},
    "Protocol": {"judge": "scorer", "judge_accuracy_on_real": "scorer_accuracy_on_real"},
}

# Class -> old field -> where it is today. Until December 2026 settings of quantizers were fields of systems,
# each of which had one or two quantizers.
MOVED: dict[str, Mapping[str, str]] = {
    "TiTok": {
        "bottleneck": "quantizer",
        "codebook": "quantizer.codes",
        "metric": "quantizer.metric",
        "learning": "quantizer.learning",
        "commitment": "quantizer.commitment",
        "kl_weight": "quantizer.kl_weight",
    },
    "LlamaGen": {
        "codes": "quantizer.codes",
        "code_width": "quantizer.code_width",
        "unit_codes": "quantizer.metric",
        "commitment": "quantizer.commitment",
        "entropy_weight": "quantizer.entropy_weight",
    },
    "MaskGITVQGAN": {"codes": "quantizer.codes", "codebook_weight": "quantizer.codebook_weight"},
    "InstellaT2I": {
        "bits": "quantizer.bits",
        "codebook": "quantizer.codes",
        "codebook_width": "quantizer.code_width",
        "codebook_learning": "quantizer.learning",
        "temperature": "quantizer.temperature",
    },
}
MOVED["TATiTok"] = MOVED["TiTok"]

# Fields that `jaxtok.data.Data` had for every source, when it was one class.
_OF_ALL_SOURCES = (
    "path",
    "eval_path",
    "held_out",
    "image_column",
    "label_column",
    "caption_column",
    "white",
    "max_pixels",
)
_OF_SOURCE = {
    **dict.fromkeys(("digits", "photos", "shapes"), ()),
    **dict.fromkeys(
        ("folder", "webdataset", "arrayrecord", "numpy"),
        ("path", "eval_path", "held_out", "white", "max_pixels"),
    ),
    "parquet": _OF_ALL_SOURCES,
}

# Paths of the leaves of a state or of variables, "collection/module/name": what is replaced, and by what.
PATHS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^adversary(?=/)"), "discriminator"),
    (re.compile(r"(?<=/)told(?=/|$)"), "conditioning"),
)


def current_fields(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields of a class under today's names.

    Raises:
      ValueError: a field is there under both names.
    """
    values = _with_quantizer(kind, values)
    renamed = FIELDS.get(kind, {})
    if twice := [f"{old} and {new}" for old, new in renamed.items() if old in values and new in values]:
        raise ValueError(f"{kind} has {', '.join(twice)}, two names of one field; remove the first")
    return {renamed.get(name, name): value for name, value in values.items()}


def _with_quantizer(kind: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a system with those of its quantizer gathered in "quantizer"."""
    old = {name: values[name] for name in MOVED.get(kind, ()) if name in values}
    named = values.get("quantizer")
    if not old and (kind not in MOVED or not isinstance(named, str)):
        return values
    if isinstance(named, Mapping):
        raise ValueError(
            f"{kind} has a quantizer and {', '.join(old)}, which are settings of an older one; remove these"
        )
    kept = {name: value for name, value in values.items() if name not in old and name != "quantizer"}
    return {**kept, "quantizer": _QUANTIZER_OF[kind](old, named)}


def _of_titok(old: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    del named
    if old.get("bottleneck") == "vae":
        return {"type": "gaussian"} | {name: old[name] for name in ("kl_weight",) if name in old}
    known = {name: old[name] for name in ("metric", "learning", "commitment") if name in old}
    return {"type": "vq", "codes": old.get("codebook", 4096), "metric": "cosine"} | known


def _of_llamagen(old: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    del named
    metric = "cosine" if old.get("unit_codes", True) else "euclidean"
    known = {name: value for name, value in old.items() if name != "unit_codes"}
    return {"type": "vq", "codes": 16384, "code_width": 8, "metric": metric} | known


def _of_maskgit_vqgan(old: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    del named
    return {"type": "vq", "codes": 1024, "commitment": 1.0, "codebook_weight": 0.25} | dict(old)


def _of_instella(old: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    if named != "vq":
        sizes = {"bits": 64} | {name: old[name] for name in ("bits", "temperature") if name in old}
        return {"type": named or "binary"} | sizes
    return {
        "type": "vq",
        "codes": old.get("codebook", 256),
        "code_width": old.get("codebook_width", 8),
        "learning": old.get("codebook_learning", "ema"),
        "decay": 0.95,
        "revive_below": 0.1,
    }


_QUANTIZER_OF: Mapping[str, Callable[[Mapping[str, Any], str | None], dict[str, Any]]] = {
    "TiTok": _of_titok,
    "TATiTok": _of_titok,
    "LlamaGen": _of_llamagen,
    "MaskGITVQGAN": _of_maskgit_vqgan,
    "InstellaT2I": _of_instella,
}


def current_flags(config: Any, flag: str) -> list[str]:
    """Today's flag of a field that was renamed or moved: of "--model.codebook" "--model.quantizer.codes"."""
    *way, field = flag.removeprefix("--").replace("-", "_").split(".")
    for name in way:
        config = getattr(config, name, None)
    kind = type(config).__name__
    today = MOVED.get(kind, {}).get(field) or FIELDS.get(kind, {}).get(field)
    return ["--" + ".".join([*way, today]).replace("_", "-")] if today else []


def current_kind(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that has kinds, with its "type".

    Until December 2026 a data set was one class whose field "source" said what is read; it had the fields of
    all sources, of which those of the others were without effect.
    """
    if values.get("source") not in _OF_SOURCE or "type" in values:
        return dict(values)
    source = values["source"]
    unread = {"source", *_OF_ALL_SOURCES} - set(_OF_SOURCE[source])
    return {"type": source} | {name: value for name, value in values.items() if name not in unread}


def kind_flags(arguments: Sequence[str]) -> list[str]:
    """Arguments with `--data.source folder`, as it was said until December 2026, as `--data:folder`."""
    words, given = [], iter(arguments)
    for word in given:
        flag, equals, value = word.partition("=")
        words.append(f"--data:{value if equals else next(given, '')}" if flag == "--data.source" else word)
    return words


def current_path(path: str) -> str:
    """Today's path of a stored leaf."""
    for old, new in PATHS:
        path = old.sub(new, path)
    return path
