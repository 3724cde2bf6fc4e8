"""What `sampling.py` measures: for each prior its network on both sides, with the same weights, and both
loops.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmarks import torch_sampling as theirs
from experiments.benchmarks import torch_var as theirs_var
from jaxtok.codes import Latents
from jaxtok.nn.rope import grid_coordinates, rope_tables
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.contract import Codec, Prior
from jaxtok.priors.masked import MaskedSettings
from jaxtok.priors.permuted import PermutedSettings
from jaxtok.quantize.pyramid import phi_of_scale
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image import llamagen, rar_generator, titok_maskgit, var
from jaxtok.systems.image.llamagen_table import language_model_table
from jaxtok.systems.image.var_table import transformer_table
from jaxtok.systems.quantizers.multi_scale import var_component
from jaxtok.weights import Table, save_table

Generate = Callable[[float], torch.Tensor]  # at a temperature


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of all networks; of a published one only what decides about the others.

    Attributes:
      published: take the published networks, whatever else is said here.
      layers, heads, width: of every network.
      side: rows and columns of the grid of codes.
      codes: of RAR and MaskGIT; LlamaGen has 16 times as many.
      classes: number of classes.
    """

    published: bool = False
    layers: int = 4
    heads: int = 4
    width: int = 256
    side: int = 16
    codes: int = 1024
    classes: int = 1000


SIZES = {"tiny": Size(False, 2, 2, 32, 4, 16, 5), "small": Size(), "published": Size(True)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One prior.

    Attributes:
      prior: ours.
      params: its parameters, those of both sides.
      labels: int32 [B].
      settings: of our sampler; has a `temperature`.
      greedy: the same at temperature 0.
      generate: the loop in PyTorch.
      released: the same as the released code does it, where that computes more than a step needs.
      codec: what our prior needs of a tokenizer, if anything.
    """

    prior: Prior
    params: Any
    labels: np.ndarray
    settings: Any
    greedy: Any
    generate: Generate
    codec: Codec | None = None
    released: Generate | None = None

    @property
    def description(self) -> dict[str, Any]:
        """What is compared."""
        elements = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        return {
            "parameters": elements,
            "tokens": self.prior.tokens,
            "codes": self.prior.space.size,
            "settings": dataclasses.asdict(self.settings),
        }

    def check(self) -> float:
        """Part of the codes that differ where all sides take the likeliest.

        Raises:
          ValueError: more than one in a hundred. Few may: where two values are as likely up to a rounding
            error, what follows them in a row differs too.
        """
        mine = np.asarray(self._sampler(self.greedy)(self.params, self.labels, jax.random.key(0)))
        loops = [loop for loop in (self.generate, self.released) if loop]
        differing = max(float(np.mean(mine[..., 0] != loop(0.0).numpy())) for loop in loops)
        if not differing <= 0.01:
            raise ValueError(f"{differing:.2%} of the codes of the two sides differ at temperature 0")
        return differing

    @property
    def sides(self) -> dict[str, Callable[[int], None]]:
        """What draws a number of batches and waits for each, by the name of the side."""
        sample, key = self._sampler(self.settings), jax.random.key(0)

        def run(count: int) -> None:
            for index in range(count):
                jax.block_until_ready(sample(self.params, self.labels, jax.random.fold_in(key, index)))

        def looped(generate: Generate) -> Callable[[int], None]:
            def run(count: int) -> None:
                for _ in range(count):
                    generate(self.settings.temperature)

            return run

        found = {"jaxtok": run, "torch": looped(self.generate)}
        return found if self.released is None else {**found, "torch as released": looped(self.released)}

    def _sampler(self, settings: Any) -> Any:
        network = self.prior.network

        @jax.jit
        def sample(params, labels, key):
            told = getattr(network, "conditioner", None)
            condition = network.class_condition(labels) if told is None else told.condition(labels)
            return self.prior.sample(params, condition, key, settings=settings, codec=self.codec).codes

        return sample


def _case(
    prior: Prior,
    condition: Any,
    batch: int,
    classes: int,
    module: Any,
    table: Table,
    settings: Any,
    loop: Any,
    codec: Codec | None = None,
    released: bool = False,
) -> Case:
    """A case with drawn weights.

    `loop` is `(labels, temperature) -> codes` of the module, and with `released` takes a third argument:
    whether it computes what the released code does.
    """
    codes = Latents(codes=jnp.zeros((1, prior.tokens, 1), jnp.int32))
    shapes = jax.eval_shape(prior.init, jax.random.key(0), codes, condition(jnp.zeros((1,), jnp.int32)))
    rng = np.random.default_rng(0)
    params = _drawn(rng, shapes)
    _give(module, table, params)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    greedy = dataclasses.replace(settings, temperature=0.0)
    if isinstance(settings, MaskedSettings):
        greedy = dataclasses.replace(greedy, choice_temperature=0.0)
    told = torch.from_numpy(labels).long()
    params = jax.tree.map(jnp.asarray, params)
    generate = lambda temperature: loop(told, temperature)
    as_released = (lambda temperature: loop(told, temperature, True)) if released else None
    return Case(prior, params, labels, settings, greedy, generate, codec, as_released)


def _drawn(rng: np.random.Generator, shapes: Any) -> Any:
    """Parameters of these shapes."""

    def draw(path, leaf):
        noise, name = rng.standard_normal(leaf.shape, np.float32), path[-1].key
        if name == "scale":
            return 1 + 0.1 * noise
        if name != "kernel":
            return 0.3 * noise
        # Of a convolution all but the last axis lead in, of layers in a stack only the one before it.
        return noise / math.sqrt(math.prod(leaf.shape[:-1]) if leaf.ndim == 4 else leaf.shape[-2])

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _give(module: Any, table: Table, params: Any) -> None:
    """Gives a module the parameters; it must have exactly those."""
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in save_table(table, params, {}).items()}
    module.load_state_dict(tensors)
    module.eval()


def llamagen_case(size: Size, batch: int) -> Case:
    """Next tokens of a Llama."""
    model = llamagen.LlamaGen.c2i("B")
    if not size.published:
        shape = llamagen.LanguageModelShape(size.layers, size.heads, size.width // size.heads)
        model = dataclasses.replace(
            model,
            image_size=size.side * model.encoder.factor,
            quantizer=VQConfig(codes=16 * size.codes, code_width=8, metric="cosine"),
            classes=size.classes,
            prior=shape,
        )
    shape, settings = model.prior, AutoregressiveSettings(guidance=3.0, top_k=2000)
    rope = rope_tables(grid_coordinates(*model.grid), (shape.head_dim // 2,) * 2, layout="interleaved")
    module = theirs.LlamaGenerator(
        shape.layers,
        shape.heads,
        shape.width,
        shape.inner,
        model.space.size,
        model.classes,
        [torch.from_numpy(np.array(plane[:, ::2])) for plane in (rope.cos, rope.sin)],
    )

    def loop(labels, temperature, released=False):
        draw = theirs.draw(temperature, settings.top_k)
        return module.generate(labels, settings.guidance, draw, released)

    table, prior = language_model_table(shape.layers, classes=True), model.autoregressive()
    return _case(
        prior, model.condition_on, batch, model.classes, module, table, settings, loop, released=True
    )


def rar_case(size: Size, batch: int) -> Case:
    """Next tokens of RAR's generator."""
    model = rar_generator.RARGenerator(spare_positions=0, spare_steps=0)
    if not size.published:
        model = dataclasses.replace(model, **_shape(size), codebook=size.codes)
    settings = PermutedSettings(guidance=15.0, guidance_power=2.75)
    shape = (model.layers, model.heads, model.width, model.hidden, model.tokens)
    module = theirs.RARGenerator(*shape, model.codebook, model.classes)

    def loop(labels, temperature, released=False):
        draw = theirs.draw(temperature)
        return module.generate(labels, settings.guidance, settings.guidance_power, draw, released)

    prior, table = model.prior(), rar_generator.generator_table(model.layers)
    condition = model.network().class_condition
    return _case(prior, condition, batch, model.classes, module, table, settings, loop, released=True)


def maskgit_case(size: Size, batch: int) -> Case:
    """Parallel steps of TiTok's BERT."""
    model = titok_maskgit.TiTokMaskGIT.l32()
    if not size.published:
        model = dataclasses.replace(model, **_shape(size), codebook=size.codes)
    settings = MaskedSettings.titok(8, 4.5, 3.0)
    shape = (model.layers, model.heads, model.width, model.hidden, model.tokens)
    module = theirs.MaskGITGenerator(*shape, model.space.size, model.classes)

    def loop(labels, temperature):
        return module.generate(labels, settings.guidance, temperature, settings.steps)

    official = titok_maskgit.official_components(
        {"model": {"generator": {"num_hidden_layers": model.layers}}}
    )
    prior, table = model.prior(), official["model"].table
    condition = model.network().class_condition
    return _case(prior, condition, batch, model.classes, module, table, settings, loop)


def var_case(size: Size, batch: int) -> Case:
    """Next scales of VAR."""
    model = var.VAR.published("d16")
    if not size.published:
        scales = var.SCALES[256] if size.side == var.SCALES[256][-1] else (1, 2, 3, size.side)
        shape = var.ScalePriorShape(size.layers, size.heads, size.width // size.heads)
        half = dataclasses.replace(model.encoder, features=8)
        model = dataclasses.replace(
            model,
            image_size=size.side * model.encoder.factor,
            scales=scales,
            codes=4 * size.codes,
            encoder=half,
            decoder=dataclasses.replace(model.decoder, features=8),
            classes=size.classes,
            prior=shape,
        )
    shape, features, settings = model.prior, model.encoder.features, model.settings
    quantizer = var_component(
        {"args": {"v_patch_nums": model.scales, "vocab_size": model.codes, "z_channels": features}}
    )
    values = _drawn(np.random.default_rng(1), quantizer.shapes["params"])
    phis = phi_of_scale(len(model.scales), model.phis)
    pyramid = theirs_var.Pyramid(model.scales, model.codes, features, phis, model.residual_ratio)
    _give(pyramid, quantizer.table, values)
    codec = model.prior_codec({"params": {"quantizer": {"scales": jax.tree.map(jnp.asarray, values)}}})
    module = theirs_var.VARGenerator(
        shape.layers,
        shape.heads,
        shape.width,
        shape.inner,
        model.scales,
        model.codes,
        features,
        model.classes,
    )

    def loop(labels, temperature):
        draw = theirs.draw(temperature, settings.top_k, settings.top_p)
        return module.generate(labels, settings.guidance, draw, pyramid)

    table = transformer_table(shape.layers, True, shape.heads, False)
    prior, condition = model.next_scale(), model.class_condition
    return _case(prior, condition, batch, model.classes, module, table, settings, loop, codec)


def _shape(size: Size) -> dict[str, int]:
    return {
        "layers": size.layers,
        "heads": size.heads,
        "width": size.width,
        "hidden": 4 * size.width,
        "tokens": size.side**2,
        "classes": size.classes,
    }


CASES: dict[str, Callable[[Size, int], Case]] = {
    "llamagen": llamagen_case,
    "rar": rar_case,
    "maskgit": maskgit_case,
    "var": var_case,
}
