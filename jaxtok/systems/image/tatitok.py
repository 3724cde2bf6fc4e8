"""TA-TiTok: TiTok whose decoder reads the caption beside the latents (arXiv 2501.07730, official code
bytedance/1d-tokenizer).

The text is features of 77 tokens of a frozen text encoder (in the released models those of CLIP ViT-L/14-336
behind its last norm, 768 wide), which whoever uses the tokenizer brings along. It is trained in one stage.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.titok import TiTok
from jaxtok.systems.image.titok_table import official_components
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.latent_vit import LatentViTShape

TEXT = {"text_length": 77, "text_width": 768}


class TATiTok(TiTok):
    """The published sizes; what they are made of is in `TiTok`."""

    @classmethod
    def tiny(cls) -> "TATiTok":
        """8x8 digits and their captions as 2 tokens of 64 codes; trains in a minute on two CPU cores."""
        vit = LatentViTShape(64, 2, 2, unroll=2)
        return cls(
            image_size=8,
            channels=1,
            patch=2,
            decoder_patch=2,
            tokens=2,
            quantizer=VQConfig(codes=64, learning="cvq"),
            width=8,
            encoder=vit,
            decoder=vit,
            head="pixels",
            trained=(),
            text_length=20,
            text_source="bytes",
        )

    @classmethod
    def scenes(cls) -> "TATiTok":
        """Captioned shapes of 32x32 pixels as 2 tokens of 64 codes."""
        vit = LatentViTShape(64, 4, 2, unroll=4)
        sizes: dict[str, Any] = {"image_size": 32, "channels": 3, "patch": 8, "decoder_patch": 8}
        return dataclasses.replace(cls.tiny(), **sizes, encoder=vit, decoder=vit, text_length=72)

    @classmethod
    def bl32_vq(cls) -> "TATiTok":
        """TA-TiTok-BL-32 with 8192 codes, of which unused ones move to features."""
        return cls._single_stage("base", 32, quantizer=VQConfig(codes=8192, learning="cvq"), **TEXT)

    @classmethod
    def bl64_vq(cls) -> "TATiTok":
        """TA-TiTok-BL-64 with 8192 codes."""
        return cls._single_stage("base", 64, quantizer=VQConfig(codes=8192, learning="cvq"), **TEXT)

    @classmethod
    def bl128_vq(cls) -> "TATiTok":
        """TA-TiTok-BL-128 with 8192 codes."""
        return cls._single_stage("base", 128, quantizer=VQConfig(codes=8192, learning="cvq"), **TEXT)

    @classmethod
    def bl32_vae(cls) -> "TATiTok":
        """TA-TiTok-BL-32 with 16 Gaussian channels."""
        return cls._single_stage("base", 32, quantizer=GaussianConfig(), width=16, **TEXT)

    @classmethod
    def bl64_vae(cls) -> "TATiTok":
        """TA-TiTok-BL-64 with 16 Gaussian channels."""
        return cls._single_stage("base", 64, quantizer=GaussianConfig(), width=16, **TEXT)

    @classmethod
    def sl128_vae(cls) -> "TATiTok":
        """TA-TiTok-SL-128 with 16 Gaussian channels."""
        return cls._single_stage("small", 128, quantizer=GaussianConfig(), width=16, **TEXT)

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `jaxtok.systems.image.titok_table`."""
        return official_components(config, TATiTok.bl128_vq())


SYSTEM = TATiTok
