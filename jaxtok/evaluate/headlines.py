"""Which of many results stand for a run, and what of their protocols a reader needs beside the numbers."""

import re

from jaxtok.evaluate.protocol import Result

# In the order in which they are measured. Each is a pattern for the whole name without its stage.
HEADLINES = (
    r"psnr_.*",
    r"ssim_.*",
    r"bits_per_image",
    r"[rg]f(id|d_digits)(_w.*)?",
    r"reconstruction_.*accuracy.*",
    r"(nll|denoising_loss|masked_loss)_nats_per_slot",
    r"sample_.*accuracy.*",
    r"samples_per_second.*",
)


def is_headline(name: str) -> bool:
    """Whether a metric, named with or without its stage (`tokenizer/psnr_uint8`), is one of the main ones."""
    metric = name.rpartition("/")[2]
    return any(re.fullmatch(pattern, metric) for pattern in HEADLINES)


def basis(result: Result) -> str:
    """What a number was measured on, in a few words: how many images, which guidance, which scorer."""
    protocol, words = result.protocol, []
    if "per_caption" in protocol:
        words.append(f"{protocol['captions'] * protocol['per_caption']} samples")
    elif "images" in protocol:
        words.append(f"{protocol['images']} {'held-out ' * (protocol.get('split') == 'eval')}images")
    if "guidance" in protocol:
        words.append(f"guidance {protocol['guidance']:g}")
    if "scorer_accuracy_on_real" in protocol:
        words.append(f"scorer on real images {protocol['scorer_accuracy_on_real']:.4g}")
    if protocol.get("device", "cpu") != "cpu":
        words.append(str(protocol["device"]))
    if "caution" in protocol:
        words.append(protocol["caution"])
    return ", ".join(words)
