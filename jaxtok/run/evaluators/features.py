"""What `evaluate` measures of a trained stage with feature networks: how like real images its images are.

Reconstructions are compared with their originals (rFD), with perturbed codes too (pFD); samples of a prior
with images of the training split, or with the statistics of a file (gFD). The embedded network needs nothing;
with Inception's weights the same numbers are rFID, pFID and gFID.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import keys as random
from jaxtok.codes import Latents
from jaxtok.data.dataset import Dataset
from jaxtok.data.pipeline import Pipeline
from jaxtok.evaluate.feature_sets import (
    KEPT_ROWS,
    FeatureSet,
    frechet_results,
    score_result,
    set_results,
)
from jaxtok.evaluate.features.digits import digit_network
from jaxtok.evaluate.features.inception import inception_network
from jaxtok.evaluate.features.network import FeatureNetwork, weights_version
from jaxtok.evaluate.perturbed import code_vectors, has_neighbours, parse_perturbation, perturbed
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.references import Reference, read_reference
from jaxtok.evaluate.streaming import StreamingMean, first_images
from jaxtok.losses.perceptual import PerceptualNetwork
from jaxtok.nn.images import to_uint8
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator, modality_of, read_arrays, reconstructor
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import TrainedStage

log = logging.getLogger(__name__)

_DEFAULT_ALPHA, _DEFAULT_DELTA = 0.5, 16


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """Feature networks and numbers of images.

    Attributes:
      network: "auto" is Inception where its weights are given, otherwise the embedded network; "none" leaves
        these metrics out.
      inception: local weight file of InceptionV3 (`pt_inception-2015-12-05-6726825d.pth`), for FID, sFID, KID
        and the Inception score.
      preprocessing: of Inception: "tf1" as torch-fidelity and ADM, "torch" as pytorch-fid.
      lpips: local weight files of VGG16 and of LPIPS; without them the embedded network is used, and named.
      reference: `.npz` file of statistics that samples are compared with, as ADM has them; without it the
        training split of the run.
      save_reference: `.npz` file to write the statistics of the training split to.
      images: how many images of a split at most.
      samples: how many samples; 0 for as many as the experiment scores.
      perturb: "alpha:delta" of perturbed codes, such as 0.5:16 1:16; by default 0.5:16 where a tokenizer has
        a list of codes.
    """

    network: Literal["auto", "none"] = "auto"
    inception: str = ""
    preprocessing: Literal["tf1", "torch"] = "tf1"
    lpips: tuple[str, ...] = ()
    reference: str = ""
    save_reference: str = ""
    images: int = 50_000
    samples: int = 0
    perturb: tuple[str, ...] = ()


class FeatureMeasures:
    """The networks of `FeatureOptions`, loaded, and the real images that were seen so far.

    Args:
      options: which.
      seed: of the run, for protocols.

    Raises:
      ValueError: a number out of range, or weights that do not fit.
      FileNotFoundError: a file that is not there.
    """

    def __init__(self, options: FeatureOptions, seed: int = 0):
        if options.images < 2 or options.samples < 0:
            raise ValueError(
                f"images={options.images} and samples={options.samples}; at least 2 images, samples 0 or more"
            )
        self.options, self.seed = options, seed
        self.perturbations = [parse_perturbation(text) for text in options.perturb]
        self.reference = read_reference(options.reference) if options.reference else None
        self.network: FeatureNetwork = (
            inception_network(options.inception, options.preprocessing)
            if options.inception
            else digit_network()
        )
        self.perceptual = PerceptualNetwork("lpips", options.lpips) if options.lpips else PerceptualNetwork()
        self._real: dict[Dataset, FeatureSet] = {}
        self._served = False

    def check_served(self) -> None:
        """To be called when every stage was measured.

        Raises:
          ValueError: options were given, and no stage has images.
        """
        if self.options != FeatureOptions() and not self._served:
            raise ValueError(
                "--features measured nothing: its networks read images, and no stage of this run has any. "
                "The other results were written; leave it out"
            )

    def evaluate(self, evaluator: Any, trained: TrainedStage) -> list[Result]:
        """What the evaluator measures, and what the networks say of its images."""
        if not isinstance(evaluator, TokenizerEvaluator | SampleEvaluator):
            return evaluator.evaluate(trained)
        if modality_of(evaluator.model).key != "image":
            return evaluator.evaluate(trained)
        self._served = True
        if isinstance(evaluator, TokenizerEvaluator):
            return [*evaluator.evaluate(trained), *self.reconstructions(evaluator, trained)]
        if isinstance(evaluator, SampleEvaluator):
            each = math.ceil(self.options.samples / evaluator.captions) or evaluator.per_caption
            metric = functools.partial(self.samples, evaluator.data)
            evaluator = dataclasses.replace(evaluator, metric=metric, per_caption=each)
        return evaluator.evaluate(trained)

    # -- reconstructions --

    def reconstructions(self, evaluator: TokenizerEvaluator, trained: TrainedStage) -> list[Result]:
        """Frechet distances, neighbours and perceptual distance of reconstructions and their originals, and
        Frechet distances with perturbed codes.
        """
        reconstruct, variables = reconstructor(evaluator.model), evaluator.variables(trained)
        perturbed = self._perturbed(evaluator, trained)
        real, ours = FeatureSet(self.network), FeatureSet(self.network)
        worse = {setting: FeatureSet(self.network) for setting in perturbed}
        apart = StreamingMean()
        for number, (batch, mask) in enumerate(first_images(trained.batches(), self.options.images)):
            arrays, frozen = read_arrays(batch, trained)
            codes, restored = to_host(reconstruct(variables, arrays, frozen))
            real.update(batch["image"], mask)
            ours.update(restored, mask)
            distance = _distance(self.perceptual)(self.perceptual.variables(), restored, batch["image"])
            apart.update(np.asarray(distance), mask)
            keys = random.example_keys(jax.random.fold_in(trained.key, number), len(mask))
            for setting, decode in perturbed.items():
                worse[setting].update(to_host(decode(variables, codes, keys, arrays, frozen)), mask)
        if real.count < 2:
            return []
        originals = real.reference("the originals")
        shared = {"weights": "average" if trained.averaged else "raw", "split": "eval"}
        results = [
            *frechet_results(ours, originals, "r", shared),
            *set_results(ours, real, originals.name, "r", shared),
            self._perceptual_result(apart, real, shared),
        ]
        for (alpha, delta), found in worse.items():
            stated = {**shared, "alpha": alpha, "delta": delta, "seed": self.seed}
            suffix = f"_a{alpha:g}_d{delta}"
            results += frechet_results(found, originals, "p", stated, suffix, parts=False)
        return results

    def _perceptual_result(self, apart: StreamingMean, real: FeatureSet, shared: Mapping[str, Any]) -> Result:
        lpips = self.perceptual.kind == "lpips"
        stated = {
            "images": apart.count,
            "size": list(real.size or ()),
            "pixels": "uint8",
            "network": "vgg16" if lpips else "digits",
            "network_version": weights_version(self.perceptual.variables()),
        }
        if not lpips:
            stated |= digit_network().caution(real.size)
        return Result("lpips_vgg16" if lpips else "perceptual_digits", apart.value, {**stated, **shared})

    def _perturbed(
        self, evaluator: TokenizerEvaluator, trained: TrainedStage
    ) -> dict[tuple[float, int], Callable[..., Any]]:
        """(alpha, delta) -> what decodes perturbed codes.

        Raises:
          ValueError: perturbations were asked for, and the codes have no list of neighbours.
        """
        tokenizer = getattr(evaluator.model, "tokenizer", lambda: None)()
        if tokenizer is None or not has_neighbours(tokenizer):
            if self.perturbations:
                raise ValueError(
                    "perturbed codes need a tokenizer of one list of at most 65,536 codes per token; leave "
                    "--features.perturb out"
                )
            return {}
        size = tokenizer.space.size
        settings = self.perturbations or [(_DEFAULT_ALPHA, min(_DEFAULT_DELTA, size))]
        if too_many := [delta for _, delta in settings if delta > size]:
            raise ValueError(f"delta={too_many[0]} of {size} codes; choose 1 to {size}")
        vectors, metric = code_vectors(tokenizer, trained.variables)
        return {
            (alpha, delta): _perturbed_decoder(evaluator.model, alpha, delta, metric, vectors)
            for alpha, delta in settings
        }

    # -- samples --

    def samples(
        self, data: Dataset, images: np.ndarray, labels: np.ndarray, captions: Sequence[str]
    ) -> list[Result]:
        """Frechet distances, neighbours and class score of samples; a `Scorer` but for the data."""
        del labels, captions
        found, real = FeatureSet(self.network), self._training_images(data)
        for first in range(0, len(images), self.network.batch):
            found.update(images[first : first + self.network.batch])
        name = f"train split of {data.kind_name()}"
        reference, shared = self.reference or real.reference(name), {"seed": self.seed}
        return [
            *frechet_results(found, reference, "g", shared),
            *set_results(found, real, name, "g", shared),
            score_result(found, shared),
        ]

    def _training_images(self, data: Dataset) -> FeatureSet:
        """Features of the training split without augmentation; seen once for all priors."""
        if data not in self._real:
            limit = min(self.options.images, KEPT_ROWS) if self.reference else self.options.images
            plain = data.for_tokens()
            real = FeatureSet(self.network)
            for batch, mask in first_images(Pipeline(plain, "train").evaluation_batches(), limit):
                real.update(batch["image"], mask)
            self._real[data] = real
            if self.options.save_reference:
                made: Reference = real.reference(f"train split of {data.kind_name()}")
                made.save(self.options.save_reference)
                log.info("statistics of %d images in %s", made.images, self.options.save_reference)
        return self._real[data]


@functools.lru_cache(maxsize=4)
def _distance(network: PerceptualNetwork) -> Callable[..., jax.Array]:
    """(variables, uint8 images, uint8 images) -> float32 [B]."""

    @jax.jit
    def distance(variables, x, y):
        def shown(images):
            floats = images.astype(jnp.float32) / 127.5 - 1
            grey = network.kind == "lpips" and floats.shape[-1] == 1
            return jnp.broadcast_to(floats, (*floats.shape[:-1], 3)) if grey else floats

        return network(variables, shown(x), shown(y))

    return distance


def _perturbed_decoder(model: Any, alpha: float, delta: int, metric: Any, vectors: jax.Array) -> Any:
    """(variables, codes, keys, batch, frozen) -> uint8 images of perturbed codes."""

    @jax.jit
    def decode(variables, vectors, codes, keys, batch, frozen):
        wrong = perturbed(codes, model.space, vectors, keys, alpha=alpha, delta=delta, metric=metric)
        decoded = model.decode(variables, Latents(codes=wrong), batch=batch, frozen=frozen)
        return to_uint8(decoded["image"])

    return lambda variables, codes, *read: decode(variables, vectors, codes, *read)
