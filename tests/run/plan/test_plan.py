"""The verb `plan` on fake devices and, where libtpu is installed, for TPU slices that are not attached."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest

from experiments.image import instella_t2i
from jaxtok.quantize.vq import VQConfig
from jaxtok.run.plan import devices, program, search
from jaxtok.run.plan.devices import open_topology
from jaxtok.run.plan.hlo import parse
from jaxtok.run.plan.program import Memory, Program
from jaxtok.run.plan.search import Choice, flags, meshes, remat_fields, with_micro_batches, with_remat
from jaxtok.run.plan.stages import StagePlan, for_accelerators, frozen_shapes, plan_train
from jaxtok.run.plan.verb import Plan
from jaxtok.systems.image.instella_t2i import InstellaT2I, PriorShape, TextShape
from jaxtok.tokenizers.query_vit import ViTShape
from jaxtok.train.sharding import MeshShape, make_mesh
from tests.small_run import SMALL_CONFIG, small_cli


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The plan of the smallest tokenizer for eight GPUs, as printed and as written."""
    out = tmp_path_factory.mktemp("plans") / "plan.json"
    mesh = ("--mesh.data", "4", "--mesh.fsdp", "2")
    printed = small_cli("plan", "--topology", "gpu:8", *mesh, "--only", "tokenizer", "--out", out)
    return printed, json.loads(out.read_text())


def test_a_plan_is_printed_and_written(planned):
    printed, written = planned
    (stage,) = written["stages"]
    assert stage["stage"] == "tokenizer" and written["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
    program = stage["program"]
    memory, costs = program["memory"], program["costs"]
    assert stage["parameters"] == 9_652 and stage["frozen_parameters"] == 0
    assert memory["total"] == memory["arguments"] + memory["outputs"] - memory["aliased"] + (
        memory["temporaries"] + memory["code"]
    )
    assert program["fits"] and 0 < stage["ceiling"] < 1
    # All of the state is donated: what comes out beside it are the metrics.
    assert memory["outputs"] - memory["aliased"] < 10_000
    assert costs["collectives"]["all-reduce"]["count"] > 0
    assert "tokenizer: largest temporaries" in printed and "trained parameters" in printed


def test_arithmetic_per_chip_is_what_is_written_over_the_chips(planned):
    (stage,) = planned[1]["stages"]
    program = stage["program"]
    assert stage["model_flops"] == program["jaxpr_flops"]  # nothing is rematerialised
    assert program["costs"]["flops"] * 8 == pytest.approx(program["jaxpr_flops"], rel=0.2)


def test_a_plan_says_what_it_cannot_know(planned):
    printed, written = planned
    assert "compiled by XLA:CPU for 8 fake devices, not for h100" in written["caveat"]
    assert written["caveat"][:40] in printed and written["chip"]["source"] in printed
    assert "precision auto is bfloat16, as on accelerators" in written["notes"]
    assert written["config"]["precision"] == "bfloat16"


def test_the_sampler_is_planned_likewise(tmp_path):
    arguments = ("--topology", "gpu:2", "--verb", "sample", "--only", "independent")
    small_cli("plan", *arguments, "--out", tmp_path / "plan.json")
    (stage,) = json.loads((tmp_path / "plan.json").read_text())["stages"]
    assert stage["program"]["jaxpr_flops"] > 0 and stage["batch"] == SMALL_CONFIG.data.batch_size


@pytest.mark.parametrize(
    "flags_, message",
    [
        (("--topology", "v9:2x2"), "give a chip and how many, such as v5e:16x16, v5p:2x2x2 or gpu:8"),
        (("--topology", "gpu:8", "--mesh.data", "3"), "does not fit 8 devices"),
        (("--topology", "gpu:8", "--only", "decoder"), "no stages ['decoder']"),
        (("--topology", "gpu:8", "--data.batch-size", "60"), "Use --data.batch-size 64, or fewer chips"),
        (("--topology", "gpu:8", "--verb", "sample", "--only", "tokenizer"), "has a sampler"),
        (("--topology", "gpu:4096"), "set JAX_NUM_CPU_DEVICES=4096 before it starts"),
    ],
)
def test_errors_are_one_line(capsys, tmp_path, flags_, message):
    with pytest.raises(SystemExit):
        small_cli("plan", *flags_, "--out", tmp_path / "plan.json")
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_search_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="trials is 0"):
        Plan(trials=0)
    with pytest.raises(ValueError, match="--search tries ways to train"):
        Plan(search=True, verb="sample")


def test_without_libtpu_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "jaxtok\[plan\]"'):
        open_topology("v5e:2x2")


def test_only_auto_precision_is_changed():
    config, notes = for_accelerators(SMALL_CONFIG)
    assert config.precision == "bfloat16" and len(notes) == 1
    assert for_accelerators(config) == (config, [])


def test_published_priors_are_planned_without_weights_of_the_language_model():
    stages = list(instella_t2i.stages(instella_t2i.PRESETS["bae-1024"]))
    prior = next(stage for stage in stages if stage.name == "diffusion")
    frozen = frozen_shapes(prior, stages)
    assert set(frozen) == {"tokenizer", "text"}
    # AMD-OLMo-1B: 16 layers of width 2048 and 50,304 embeddings.
    assert sum(leaf.size for leaf in jax.tree.leaves(frozen["text"])) == 1_176_764_416


def test_a_search_varies_every_stack_and_the_micro_batches_of_a_stage():
    config = instella_t2i.PRESETS["bae-1024"]
    fields = ["model.encoder.remat", "model.decoder.remat", "model.prior.remat"]
    assert remat_fields(config) == fields
    recomputed = with_remat(config, "full")
    assert recomputed.model.encoder.remat == recomputed.model.prior.remat == "full"
    stage = next(iter(instella_t2i.stages(config)))
    assert with_micro_batches(stage, 4).update.fit.micro_batches == 4
    words = flags(Choice((8, 8, 1), "dots", 4), stage, config)
    assert words == (
        "--mesh.data 8 --mesh.fsdp 8 --mesh.tensor 1 --model.encoder.remat dots --model.decoder.remat dots "
        "--model.prior.remat dots --tokenizer.micro-batches 4"
    )


def test_meshes_begin_with_the_given_one_and_divide_the_batch():
    stages = list(instella_t2i.stages(SMALL_CONFIG))  # batch 64
    found = list(meshes((2, 4, 1), "tokenizer", stages))
    assert found[0] == (2, 4, 1) and found[1] == (1, 8, 1) and (8, 1, 1) in found and (1, 1, 8) in found
    assert all(data * fsdp * tensor == 8 for data, fsdp, tensor in found)
    # Meshes that split layers are reached before those that copy the parameters.
    assert [mesh for mesh in found[1:] if mesh[0] == 1] == found[1:5] and found[2] == (1, 4, 2)
    assert (64, 2, 1) not in list(meshes((128, 1, 1), "tokenizer", stages))
    assert {mesh[2] for mesh in meshes((8, 1, 1), "independent", stages)} == {1}  # has nothing to split


def fake_search(monkeypatch, trials, fits):
    """The choices that a search tries for the tokenizer on 8 devices, where `fits(choice)` says what fits."""

    def plan(stages_of, config, name, choice, topology):
        memory = Memory(0, 0, 0, 0, 0, total=1 if fits(choice) else 10**15)
        compiled = Program(memory, fits(choice), None, None, 0.0, 0.0, 0.0)
        return StagePlan(name, 1, 0, 64, "image 8 x 8 x 1", compiled, 0.0, None)

    monkeypatch.setattr(search, "_plan", plan)
    stages_of = lambda config: list(instella_t2i.stages(config))
    topology = open_topology("gpu:8")
    tried = search.search(stages_of, SMALL_CONFIG, "tokenizer", MeshShape(), topology, trials)
    return [trial.choice for trial in tried]


def test_a_search_reaches_meshes_that_split_layers(monkeypatch):
    easy = fake_search(monkeypatch, 4, lambda choice: True)
    assert [choice.mesh for choice in easy] == [(8, 1, 1), (1, 8, 1), (1, 4, 2), (1, 2, 4)]
    hard = fake_search(monkeypatch, 8, lambda choice: choice.mesh[2] > 1)
    assert len(hard) == 8 and hard[-1].mesh[2] > 1 and hard[-1].micro_batches == 1


def test_a_search_stops_where_nothing_is_to_gain(monkeypatch, tmp_path):
    tried = []
    real = search._plan

    def plan(stages_of, config, name, choice, topology):
        tried.append(choice)
        return real(stages_of, config, name, choice, topology)

    monkeypatch.setattr(search, "_plan", plan)
    out = tmp_path / "search.json"
    arguments = ("--topology", "gpu:2", "--only", "independent", "--search", "--trials", "3", "--out", out)
    printed = small_cli("plan", *arguments)
    # It fits at once, so neither recomputation nor micro-batches are tried, only other meshes.
    assert [(choice.mesh, choice.micro_batches) for choice in tried] == [((2, 1, 1), 1), ((1, 2, 1), 1)]
    assert "the fastest of those that fit: --mesh.data" in printed
    assert len(json.loads(out.read_text())["search"]["independent"]) == 2


# -- real compilers --

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install jaxtok[plan]"
)


@needs_libtpu
@pytest.mark.slow
def test_tiny_for_a_tpu(tmp_path):
    out = tmp_path / "plan.json"
    small_cli("plan", "--topology", "v5e:2x2", "--mesh.fsdp", "2", "--out", out)
    stages = json.loads(out.read_text())["stages"]
    assert [stage["stage"] for stage in stages] == [
        "tokenizer", "independent", "independent_by_class", "diffusion", "autoregressive",
    ]  # fmt: skip
    for stage in stages:
        assert stage["program"]["fits"] and stage["program"]["costs"]["flops"] > 0, stage["stage"]


def published(topology, shape, batch):
    """The plan of the published diffusion prior at 256 px."""
    config, _ = for_accelerators(instella_t2i.PRESETS["bae-1024"])
    data = dataclasses.replace(config.data, batch_size=batch, image_sizes=(256,))
    stages = list(instella_t2i.stages(dataclasses.replace(config, data=data)))
    slice_ = open_topology(topology)
    mesh = make_mesh(MeshShape(*shape), slice_.devices)
    (plan,) = plan_train(stages, stages, ("diffusion",), mesh, slice_)
    return plan


@needs_libtpu
@pytest.mark.slow
def test_published_prior_scales_from_8_to_256_chips_and_sends_only_weights_and_gradients():
    small, large = published("v5e:2x4", (1, 8), 128), published("v5e:16x16", (16, 16), 4096)
    assert small.parameters == large.parameters == 1_292_517_440
    assert small.program.fits and large.program.fits
    assert large.program.costs.flops == pytest.approx(small.program.costs.flops, rel=0.02)
    assert large.program.costs.flops * 256 == pytest.approx(large.program.jaxpr_flops, rel=0.01)
    # What is sent does not depend on the batch.
    half, whole = (plan.program.costs.collectives for plan in (published("v5e:16x16", (16, 16), 2048), large))
    assert "all-to-all" not in whole
    assert {kind: total.bytes for kind, total in half.items()} == {
        kind: total.bytes for kind, total in whole.items()
    }


def test_a_prior_on_token_files_runs_no_tokenizer(tmp_path):
    plans = []
    for more in ((), ("--tokens",)):
        arguments = ("--topology", "gpu:2", "--only", "independent", *more)
        small_cli("plan", *arguments, "--out", tmp_path / "plan.json")
        plans += json.loads((tmp_path / "plan.json").read_text())["stages"]
    of_images, of_tokens = plans
    assert of_tokens["program"]["jaxpr_flops"] < 0.1 * of_images["program"]["jaxpr_flops"]


def test_the_parts_of_memory_make_the_total():
    memory = program.Memory(arguments=10, outputs=8, aliased=6, temporaries=5, code=1, total=18)
    assert memory.parts == {"arguments": 10, "outputs": 2, "temporaries": 5, "code": 1}
    refused = program._refused("RESOURCE_EXHAUSTED: Used 2K of 1K", 0.0, 0.0).memory
    assert refused.parts == {"refused": 2048}


@pytest.mark.parametrize("more", [{"search": True}, {"verb": "sample"}])
def test_token_files_are_planned_for_training_only(more):
    with pytest.raises(ValueError, match="--tokens plans training as given"):
        Plan(tokens=True, **more)


@needs_libtpu
@pytest.mark.slow
def test_large_codebooks_and_vocabularies_stay_split(monkeypatch):
    """262,144 codes on 16 chips: a chip holds a quarter of them at most, and never scores of all tokens."""
    codes, tensor, tokens = 2**18, 4, 8
    vit = ViTShape(1, 2, 64, axes_dims=(16, 24, 24))
    model = dataclasses.replace(
        InstellaT2I.tiny(),
        quantizer=VQConfig(codes=codes, code_width=64, learning="ema", decay=0.95, revive_below=0.1),
        tokens=tokens,
        encoder=vit,
        decoder=vit,
        prior=PriorShape(1, 2, 64),
        text=TextShape("none"),
    )
    data = dataclasses.replace(instella_t2i.TINY.data, batch_size=64, text_length=0)
    config, _ = for_accelerators(dataclasses.replace(instella_t2i.TINY, model=model, data=data, classes=0))
    slice_ = open_topology("v5e:4x4")
    stages = list(instella_t2i.stages(config))
    mesh = make_mesh(MeshShape(1, 4, tensor), slice_.devices)
    modules = []
    monkeypatch.setattr(program, "parse", lambda text: modules.append(parse(text)) or modules[-1])
    (plan,) = plan_train(stages, stages, ("autoregressive",), mesh, slice_)
    assert plan.program.fits
    shapes = {
        array.dims
        for body, _, fused in modules[0].executed()
        for instruction in ({} if fused else modules[0].computations[body]).values()
        for array in instruction.arrays
    }
    # Beside numbers per code, nothing has all of them; what has a quarter is there.
    assert not [dims for dims in shapes if codes in dims and math.prod(dims) > 2 * codes]
    assert any(codes // tensor in dims and len(dims) > 1 for dims in shapes)
    # Scores: of the tokens of a chip (a quarter of the batch) at most, among a quarter of the codes.
    assert max(map(math.prod, shapes)) <= data.batch_size // 4 * tokens * codes // tensor
