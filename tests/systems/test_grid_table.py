"""One network with different switches and names: parity with the autoencoders of several code bases."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.systems.image.grid_table import GridNames, grid_entries
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.weights import Table, flatten, load_table, read_tensors, unflatten

TAMING = {
    half: GridNames(
        block=f"{side}.{{l}}.block.{{j}}",
        attention=f"{side}.{{l}}.attn.{{j}}",
        resample=f"{side}.{{l}}.{side}sample.conv",
        middle="mid.block_{n}",
        middle_attention="mid.attn_1",
    )
    for half, side in (("encoder", "down"), ("decoder", "up"))
}
MAGVIT2 = {
    half: GridNames(
        block=f"{side}.{{l}}.block.{{j}}",
        resample=f"{side}.{{l}}.{resample}",
        middle="mid_block.{j}",
        adaptive="adaptive.{l}",
    )
    for half, side, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample.conv1"))
}


class Autoencoder:
    """Both halves with the weights of an official file; arrays outside are [B, C, H, W]."""

    def __init__(self, tensors, prefix, shapes, names, size):
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for key in [key for key in own if ".qkv." in key]:  # three convolutions in one
            parts = zip("qkv", np.split(own.pop(key), 3))
            own |= {key.replace("qkv", name): part for name, part in parts}
        self.size, (rows, columns) = size, shapes["encoder"].cells(size)
        self.encoder, self.decoder = (
            GridEncoder(shapes["encoder"], rows * columns),
            GridDecoder(shapes["decoder"]),
        )
        latents = jnp.zeros((1, rows * columns, shapes["decoder"].features))
        key, images = jax.random.key(0), jnp.zeros((1, *size, 3))
        expected = {
            "encoder": jax.eval_shape(lambda: self.encoder.init(key, images))["params"],
            "decoder": jax.eval_shape(lambda: self.decoder.init(key, latents, size))["params"],
        }
        table = Table(tuple(e for half in shapes for e in grid_entries(shapes[half], half, names[half])))
        halves = {key: value for key, value in own.items() if key.split(".")[0] in shapes}
        self.params, self.grid = load_table(table, halves, expected)[0], (rows, columns)

    def features(self, images):
        x = self.encoder.apply({"params": self.params["encoder"]}, jnp.moveaxis(jnp.asarray(images), 1, -1))
        return jnp.moveaxis(x.reshape(x.shape[0], *self.grid, -1), -1, 1)

    def pixels(self, latents):
        latents = jnp.moveaxis(jnp.asarray(latents), 1, -1).reshape(latents.shape[0], -1, latents.shape[1])
        return jnp.moveaxis(
            self.decoder.apply({"params": self.params["decoder"]}, latents, self.size)[0], -1, 1
        )


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow  # parity
def test_open_magvit2(shared):
    io, _ = read_tensors(shared("goldens/open_magvit2.safetensors"))
    shape = GridShape(32, (1, 2), features=8, use_bias=False, down="conv_centre", up="shuffle", adaptive=True)
    shapes = {"encoder": dataclasses.replace(shape, window=1), "decoder": shape}
    model = Autoencoder(io, "model.", shapes, MAGVIT2, (16, 16))
    close(jax.jit(model.features)(io["io.image"]), io["io.encoder"])
    close(jax.jit(model.pixels)(io["io.quantised"]), io["io.reconstruction"])


@pytest.mark.slow  # parity
@pytest.mark.parametrize(
    "name, multipliers, size",
    [("var_vqvae", (1, 1, 2), 20), ("var_vqvae_znorm", (1, 2), 16)],
    ids=["", "znorm"],
)
def test_var(shared, name, multipliers, size):
    io, _ = read_tensors(shared(f"goldens/{name}.safetensors"))
    features = io["model.encoder.conv_out.bias"].shape[0]
    encoder = GridShape(32, multipliers, 1, 2, (len(multipliers) - 1,), True, features)
    shapes = {"encoder": encoder, "decoder": dataclasses.replace(encoder, blocks=2)}
    model = Autoencoder(io, "model.", shapes, TAMING, (size, size))
    close(jax.jit(model.features)(io["io.image"]), io["io.encoder"])
    latents = io[max(key for key in io if key.startswith("io.f_hat."))]
    around = jax.lax.conv(latents, io["model.post_quant_conv.weight"], (1, 1), "SAME")
    around = around + io["model.post_quant_conv.bias"][:, None, None]
    close(jax.jit(model.pixels)(np.asarray(around)), io["io.reconstruction_unclamped"])


@pytest.mark.slow  # parity
def test_the_base_of_alit_and_karl_is_the_vqgan_of_maskgit_with_the_names_of_vqgan(shared):
    io, _ = read_tensors(shared("goldens/alit_vqgan.safetensors"))
    shape = GridShape(
        32, (1, 1), 1, features=16, window=1, use_bias=False, shortcut="branch", down="pool", unit_range=True
    )
    shapes = {"encoder": shape, "decoder": shape}
    model = Autoencoder(io, "model.base_tokenizer.vqgan.", shapes, TAMING, (32, 32))
    features = jax.jit(model.features)(2 * io["io.image"] - 1)
    close(features, io["io.base_features"])
    codebook = io["model.base_tokenizer.vqgan.quantize.embedding.weight"]
    distances = np.square(np.moveaxis(features, 1, -1)[..., None, :] - codebook).sum(axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=-1).reshape(2, -1), io["io.base_indices"])
    logits = np.asarray(io["io.r2.decoder_output"])
    soft = jax.nn.softmax(logits, axis=-1) @ codebook
    images = jax.jit(model.pixels)(np.asarray(jnp.swapaxes(soft, 1, 2).reshape(2, 16, 16, 16)))
    close((images + 1) / 2, io["io.r2.reconstruction"])


def numbered(shape, half):
    """Our leaves by the automatic names of the original Flax code, which counts layers as they are called."""
    counts = {"Conv": itertools.count(), "ResBlock": itertools.count()}
    names, decoding, levels = {}, half == "decoder", range(len(shape.multipliers))

    def conv(ours):
        names[ours] = f"Conv_{next(counts['Conv'])}"

    def block(ours):
        theirs = f"ResBlock_{next(counts['ResBlock'])}"
        for i in (0, 1):
            names[f"{ours}/conv_{i + 1}"] = f"{theirs}/Conv_{i}"
            names[f"{ours}/norm_{i + 1}"] = f"{theirs}/GroupNorm_{i}"
        names[f"{ours}/shortcut"] = f"{theirs}/Conv_2"

    conv("conv_in")
    if decoding:
        for i in range(shape.middle):
            block(f"middle_{i}")
    for index in reversed(levels) if decoding else levels:
        for i in range(shape.blocks):
            block(f"level_{index}/block_{i}")
        if decoding and index:
            conv(f"level_{index}/up/conv")
        if not decoding and index < levels[-1] and shape.down != "pool":
            conv(f"level_{index}/down/conv")
    if not decoding:
        for i in range(shape.middle):
            block(f"middle_{i}")
    conv("conv_out")
    return {**names, "norm": "GroupNorm_0"}


@pytest.mark.slow  # parity
@pytest.mark.parametrize(
    "name, multipliers, down",
    [("maskgit_tokenizer", (2, 1), "pool"), ("maskgit_tokenizer_conv", (1, 1, 1), "conv_wide")],
    ids=["pool", "conv"],
)
def test_maskgit(shared, name, multipliers, down):
    io, _ = read_tensors(shared(f"goldens/{name}.safetensors"))
    shape = GridShape(
        32,
        multipliers,
        1,
        middle=1,
        features=8,
        window=1,
        use_bias=False,
        shortcut="branch",
        down=down,
        unit_range=True,
    )
    images, latents = 2 * jnp.asarray(io["io.image"]) - 1, jnp.asarray(io["io.quantized"])
    cells, size = latents.reshape(latents.shape[0], -1, latents.shape[-1]), images.shape[1:3]
    encoder, decoder = GridEncoder(shape, cells.shape[1]), GridDecoder(shape)
    expected = {
        "encoder": jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))["params"],
        "decoder": jax.eval_shape(lambda: decoder.init(jax.random.key(0), cells, size))["params"],
    }
    params, used = {}, set()
    for half, tree in expected.items():
        names, flat = numbered(shape, half), {}
        for path in flatten(tree):
            layer, _, leaf = path.rpartition("/")
            used.add(f"tokenizer.{half}/{names[layer]}/{leaf}")
            flat[path] = np.asarray(io[f"tokenizer.{half}/{names[layer]}/{leaf}"], np.float32)
        params[half] = unflatten(flat)
    assert {key for key in io if key.startswith("tokenizer.")} - used == {"tokenizer.quantizer/codebook"}
    run = jax.jit(
        lambda p: (
            encoder.apply({"params": p["encoder"]}, images),
            decoder.apply({"params": p["decoder"]}, cells, size)[0],
        )
    )
    features, pixels = run(params)
    close(features.reshape(latents.shape), io["io.latents"])
    close((pixels + 1) / 2, io["io.reconstruction"])
