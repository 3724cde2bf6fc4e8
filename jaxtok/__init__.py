"""jaxtok: discrete-latent tokenizers and the priors over them.

Importing the package is cheap and does not import JAX; each public name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.codes import CodeSpace, Condition, Latents, Layout, Quantized, Reconstruction, Vocab
    from jaxtok.run import load

__version__ = "0.1.0"

__all__ = ["CodeSpace", "Condition", "Latents", "Layout", "Quantized", "Reconstruction", "Vocab", "load"]
__getattr__, __dir__ = attach(__name__, {name: "codes" for name in __all__} | {"load": "run"})
