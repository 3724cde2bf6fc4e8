"""The systems by name: what a file on disk calls them and where they stand."""

import importlib
from typing import Any

_CLASSES = {
    "flextok": "jaxtok.systems.image.flextok:FlexTok",
    "instella_t2i": "jaxtok.systems.image.instella_t2i:InstellaT2I",
    "llamagen": "jaxtok.systems.image.llamagen:LlamaGen",
    "maskgen": "jaxtok.systems.image.maskgen:MaskGen",
    "maskgit": "jaxtok.systems.image.maskgit:MaskGIT",
    "maskgit_vqgan": "jaxtok.systems.image.maskgit_vqgan:MaskGITVQGAN",
    "rar": "jaxtok.systems.image.rar:RAR",
    "tatitok": "jaxtok.systems.image.tatitok:TATiTok",
    "titok": "jaxtok.systems.image.titok:TiTok",
    "titok_maskgit": "jaxtok.systems.image.titok_maskgit:TiTokMaskGIT",
    "var": "jaxtok.systems.image.var:VAR",
    "vector_quantize_pytorch": "jaxtok.systems.quantizers.zoo:VectorQuantizePytorch",
}


def system_class(name: str) -> Any:
    """The dataclass of a system's sizes, such as `InstellaT2I`.

    Raises:
      ValueError: an unknown system.
    """
    if name not in _CLASSES:
        raise ValueError(f"no system {name!r}; there are {sorted(_CLASSES)}")
    module, _, attribute = _CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
