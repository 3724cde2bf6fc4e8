"""Instella-T2I's tokenizer and priors as one writes them in PyTorch: the other side of `step_time.py`.

Parameters have the names of the official state dict, so that `jaxtok`'s weight tables carry them over; the
byte encoder, which the official checkpoints do not have, follows the same style. PyTorch's fused functions
are used wherever there is one (attention, norms, losses), and nothing is computed that a step does not need.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rope = tuple[Tensor, Tensor]  # cosines and sines [N, head_dim]
KeysValues = tuple[Tensor, Tensor]  # [B, H, S, head_dim] each


class Attention(nn.Module):
    """Attention with RMS-normalised queries and keys over `[prefix; x]`."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        width = heads * head_dim
        self.heads, self.head_dim = heads, head_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.norm_q, self.norm_k = (nn.RMSNorm(head_dim, eps=1e-6) for _ in range(2))

    def keys_values(self, x: Tensor, rope: Rope | None = None) -> KeysValues:
        return _rotate(self.norm_k(self._split(self.k_proj(x))), rope), self._split(self.v_proj(x))

    def forward(
        self,
        x: Tensor,
        prefix: KeysValues | None = None,
        rope: Rope | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: tuple[Tensor, Tensor, int] | None = None,
    ) -> Tensor:
        """`cache` is (keys, values, position): buffers that hold the prefix and all tokens before `position`,
        written in place.
        """
        keys, values = self.keys_values(x, rope)
        if cache is not None:
            buffers, end = cache[:2], cache[2] + x.shape[1]
            for buffer, new in zip(buffers, (keys, values)):
                buffer[:, :, cache[2] : end] = new
            keys, values = (buffer[:, :, :end] for buffer in buffers)
        elif prefix is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(prefix, (keys, values)))
        queries = _rotate(self.norm_q(self._split(self.q_proj(x))), rope)
        out = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)


def _rotate(x: Tensor, rope: Rope | None) -> Tensor:
    if rope is None:
        return x
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat([-second, first], dim=-1) * rope[1]


class SwiGLU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TokenizerBlock(nn.Module):
    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        width = heads * head_dim
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(heads, head_dim), SwiGLU(width)

    def forward(self, x: Tensor, rope: Rope, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.input_layernorm(x), rope=rope, mask=mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Resampling(nn.Module):
    """Halves ("down") or doubles ("up") a grid of cells [B, D, H, W] by a convolution beside a shortcut."""

    def __init__(self, width: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width * (4 if up else 1), 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return F.pixel_shuffle(self.conv(x), 2) + F.interpolate(x, scale_factor=2)
        return self.conv(x) + F.avg_pool2d(x, 2)


class ViT(nn.Module):
    """The blocks of one half of the tokenizer; `ropes` are the tables of each stretch between resamplings."""

    def __init__(self, layers: int, heads: int, head_dim: int, after: Sequence[int], ropes: Sequence[Rope]):
        super().__init__()
        self.after, self.ropes = tuple(after), list(ropes)
        self.transformer_blocks = nn.ModuleList(TokenizerBlock(heads, head_dim) for _ in range(layers))
        self.norm_out = nn.RMSNorm(heads * head_dim, eps=1e-6)

    def run(self, x: Tensor, tokens: int, grid: tuple[int, int], resamplings: nn.ModuleList) -> Tensor:
        step = 0
        for index, block in enumerate(self.transformer_blocks):
            x = block(x, self.ropes[step])
            if index in self.after:
                cells = x[:, tokens:].transpose(1, 2).unflatten(2, grid)
                cells = resamplings[step](cells)
                grid = (cells.shape[2], cells.shape[3])
                x = torch.cat([x[:, :tokens], cells.flatten(2).transpose(1, 2)], dim=1)
                step += 1
        return x


class Encoder(ViT):
    def __init__(self, tokens: int, patch: int, channels: int, heads: int, head_dim: int, **shape):
        super().__init__(heads=heads, head_dim=head_dim, **shape)
        width = heads * head_dim
        self.patch_embedder = nn.Conv2d(channels, width, patch, stride=patch)
        self.latent_tokens = nn.Parameter(torch.zeros(1, tokens, width))
        self.down_layers = nn.ModuleList(Resampling(width, up=False) for _ in self.after)
        self.proj_out = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patch_embedder(images)
        queries = self.latent_tokens.expand(len(images), -1, -1)
        x = torch.cat([queries, cells.flatten(2).transpose(1, 2)], dim=1)
        tokens = queries.shape[1]
        x = self.run(x, tokens, (cells.shape[2], cells.shape[3]), self.down_layers)
        return self.proj_out(self.norm_out(x[:, :tokens]))


class Decoder(ViT):
    def __init__(self, input_width: int, grid: tuple[int, int], heads: int, head_dim: int, **shape):
        super().__init__(heads=heads, head_dim=head_dim, **shape)
        width = heads * head_dim
        self.grid = grid
        self.input_layer = nn.Sequential(nn.RMSNorm(input_width, eps=1e-6), nn.Linear(input_width, width))
        self.mask_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.up_layers = nn.ModuleList(Resampling(width, up=True) for _ in self.after)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.input_layer(latents)
        x = torch.cat([x, self.mask_tokens.expand(len(x), self.grid[0] * self.grid[1], -1)], dim=1)
        tokens = latents.shape[1]
        return self.norm_out(self.run(x, tokens, self.grid, self.up_layers)[:, tokens:])


class Quantizer(nn.Module):
    """Bits sampled at a temperature (0: thresholded), with a straight-through gradient, and embedded."""

    def __init__(self, width: int, bits: int):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(width, bits))
        self.embed = nn.Parameter(torch.zeros(bits, width))

    def forward(self, z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.proj(z)
        p = torch.sigmoid(logits)
        if temperature:
            bits = (torch.rand_like(logits) < torch.sigmoid(logits / temperature)).to(p.dtype)
        else:
            bits = (logits > 0).to(p.dtype)
        return (bits + (p - p.detach())) @ self.embed, (p * (1 - p)).mean()


class Tokenizer(nn.Module):
    """Images [B, C, H, W] in [-1, 1] to themselves, through bits."""

    def __init__(self, encoder: Encoder, decoder: Decoder, bits: int, patch: int, channels: int):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.quantizer = Quantizer(encoder.proj_out.out_features, bits)
        self.to_pixel = nn.Linear(decoder.norm_out.normalized_shape[0], patch * patch * channels)
        self.patch = patch

    def forward(self, images: Tensor, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
        latents, regulariser = self.quantizer(self.encoder(images), temperature)
        batch, channels, height, width = images.shape
        rows, columns, p = height // self.patch, width // self.patch, self.patch
        pixels = self.to_pixel(self.decoder(latents)).view(batch, rows, columns, p, p, channels)
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(images.shape), regulariser

    def loss(self, images: Tensor, temperature: float, beta: float = 0.1, bit_weight: float = 0.01) -> Tensor:
        restored, regulariser = self(images, temperature)
        return F.smooth_l1_loss(restored, images, beta=beta) + bit_weight * regulariser
