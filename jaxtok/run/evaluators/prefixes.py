"""How tokenizers are measured whose tokens are ordered: what every number of tokens gives."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import Latents
from jaxtok.config_files import to_json
from jaxtok.decoding.flow import FlowSettings
from jaxtok.evaluate.images import ReconstructionMeter
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.streaming import StreamingMean
from jaxtok.inspect import sample_grid
from jaxtok.nn.images import to_uint8
from jaxtok.run.evaluators.reconstructions import ReconstructsCodes, TokenizerEvaluator
from jaxtok.tokenizers.nested_dropout import prefix_lengths, prefix_mask
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import TrainedStage

_IMAGES = 1024  # every prefix is drawn twice
_SHOWN = 10


@runtime_checkable
class PrefixModel(ReconstructsCodes, Protocol):
    """An image system that draws images of any prefix of its tokens."""

    @property
    def tokens(self) -> int:
        """N."""
        ...

    @property
    def flow(self) -> FlowSettings:
        """How it draws."""
        ...


@dataclasses.dataclass(frozen=True)
class PrefixEvaluator(TokenizerEvaluator):
    """`TokenizerEvaluator`, and the same for the first 1, 2, 4, ..., N tokens.

    Attributes:
      model: a `PrefixModel`.
    """

    model: PrefixModel

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """What `TokenizerEvaluator` measures; and for the first n tokens PSNR, what of it is lost against all
        of them (dB), and diversity: the mean squared difference, in pixels of [-1, 1], of two draws.
        """
        results, lengths = super().evaluate(trained), prefix_lengths(self.model.tokens)
        variables, draw = self.variables(trained), _prefix_drawer(self.model)
        meters = [ReconstructionMeter() for _ in lengths]
        spreads, count = [StreamingMean() for _ in lengths], 0
        for number, batch in enumerate(trained.batches()):
            key = jax.random.fold_in(trained.key, number)
            drawn, squares = to_host(draw(variables, {"image": batch["image"]}, key))
            for i in range(len(lengths)):
                meters[i].update(batch["image"], drawn[i], batch["valid"])
                spreads[i].update(squares[i], batch["valid"])
            count += int(batch["valid"].sum())
            if count >= _IMAGES:
                break
        if not count:
            return results
        protocol = {
            "weights": "average" if trained.averaged else "raw",
            "split": "eval",
            "flow": to_json(self.model.flow),
        }
        quality = [meter.results(**protocol)[0] for meter in meters]
        for length, found, spread in zip(lengths, quality, spreads):
            shared = {**found.protocol, "tokens": length}
            results += [
                Result(f"{found.name}_first_{length}", found.value, shared),
                Result(f"psnr_lost_first_{length}", quality[-1].value - found.value, shared),
                Result(f"diversity_first_{length}", spread.value, {**shared, "draws": 2}),
            ]
        return results

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """What `TokenizerEvaluator` draws, and some images by number of tokens."""
        figures, lengths = super().figures(trained), prefix_lengths(self.model.tokens)
        batch = next(iter(trained.batches()), None)
        if batch is not None:
            draw = _prefix_drawer(self.model)
            drawn, _ = to_host(draw(self.variables(trained), {"image": batch["image"]}, trained.key))
            names = ("held out", *(f"{n} token{'s' * (n > 1)}" for n in lengths))
            kept = batch["valid"].nonzero()[0][:_SHOWN]
            rows = np.concatenate([batch["image"][None], drawn])[:, kept]
            figures["prefixes"] = sample_grid(rows, names, columns=_SHOWN)
        return figures


@functools.lru_cache(maxsize=8)
def _prefix_drawer(model: PrefixModel) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(variables, batch, key) -> uint8 images [P, B, ...] of every prefix, and squared differences [P, B] to
    other draws.
    """

    def decoded(variables, batch, latents, key):
        return model.decode(variables, latents, batch=batch, key=key)["image"]

    @jax.jit
    def draw(variables, batch, key):
        codes = model.encode(variables, batch).codes

        def prefix(length):
            mask = jnp.broadcast_to(prefix_mask(length, model.tokens)[..., None], codes.shape)
            latents = Latents(codes=codes, mask=mask)
            one, other = (
                jnp.clip(decoded(variables, batch, latents, jax.random.fold_in(key, i)), -1, 1)
                for i in range(2)
            )
            return to_uint8(one), jnp.mean(jnp.square(one - other), axis=(1, 2, 3))

        return jax.lax.map(prefix, jnp.asarray(prefix_lengths(model.tokens)))

    return draw
