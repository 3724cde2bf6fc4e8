"""The generator of VAR for `sampling.py`, as one writes it in PyTorch: network, loop over scales, and the
part of the tokenizer that the loop needs. Names of parameters as in `torch_sampling.py`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.torch_sampling import Draw


class VARBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.attn: Any = nn.Module()
        self.attn.mat_qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn.q_bias, self.attn.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.attn.scale_mul_1H11 = nn.Parameter(torch.zeros(1, heads, 1, 1))
        self.ffn: Any = nn.Module()
        self.ffn.fc1, self.ffn.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, told: Tensor, cache: tuple[Tensor, Tensor], place: slice) -> Tensor:
        gate1, gate2, scale1, scale2, shift1, shift2 = self.ada_lin(told)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self._attend(_norm(x) * (1 + scale1) + shift1, cache, place)
        h = _norm(x) * (1 + scale2) + shift2
        return x + gate2 * self.ffn.fc2(F.gelu(self.ffn.fc1(h), approximate="tanh"))

    def _attend(self, x: Tensor, cache: tuple[Tensor, Tensor], place: slice) -> Tensor:
        a = self.attn
        bias = torch.cat([a.q_bias, torch.zeros_like(a.q_bias), a.v_bias])
        packed = F.linear(x, a.mat_qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in packed.unbind(2))
        q = F.normalize(q, dim=-1) * a.scale_mul_1H11.clamp(max=math.log(100)).exp()
        for buffer, new in zip(cache, (F.normalize(k, dim=-1), v)):
            buffer[:, :, place] = new
        keys, values = (buffer[:, :, : place.stop] for buffer in cache)
        attended = F.scaled_dot_product_attention(q, keys, values, scale=1.0)
        return a.proj(attended.transpose(1, 2).flatten(2))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class VARGenerator(nn.Module):
    """`scales` are sides of grids."""

    def __init__(
        self,
        layers: int,
        heads: int,
        width: int,
        hidden: int,
        scales: tuple[int, ...],
        codes: int,
        features: int,
        classes: int,
    ):
        super().__init__()
        self.heads, self.scales, self.classes = heads, scales, classes
        tokens = sum(side**2 for side in scales)
        self.pos_start = nn.Parameter(torch.zeros(1, scales[0] ** 2, width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, tokens, width))
        self.class_emb, self.lvl_embed = nn.Embedding(classes + 1, width), nn.Embedding(len(scales), width)
        self.word_embed, self.head = nn.Linear(features, width), nn.Linear(width, codes)
        self.blocks: Any = nn.ModuleList(VARBlock(width, heads, hidden) for _ in range(layers))
        self.head_nm: Any = nn.Module()
        self.head_nm.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    @torch.inference_mode()
    def generate(self, labels: Tensor, strength: float, draw: Draw, pyramid: "Pyramid") -> Tensor:
        """Codes [B, N] of all scales."""
        told = self.class_emb(torch.cat([labels, torch.full_like(labels, self.classes)]))
        levels = torch.cat([torch.full((side**2,), i) for i, side in enumerate(self.scales)])
        places = self.pos_1LC[0] + self.lvl_embed(levels)
        shape = (len(told), self.heads, len(levels), told.shape[-1] // self.heads)
        caches = [(torch.empty(shape), torch.empty(shape)) for _ in self.blocks]
        x, total, codes, start = told[:, None] + self.pos_start, 0.0, [], 0
        for i, side in enumerate(self.scales):
            place = slice(start, start + side**2)
            x, start = x + places[place], place.stop
            for block, cache in zip(self.blocks, caches):
                x = block(x, told, cache, place)
            scale, shift = self.head_nm.ada_lin(told)[:, None].chunk(2, dim=-1)
            conditional, unconditional = self.head(_norm(x) * (1 + scale) + shift).chunk(2)
            now = strength * i / max(len(self.scales) - 1, 1)
            logits = conditional + now * (conditional - unconditional)
            codes.append(draw(logits.flatten(0, 1)).view(len(labels), -1))
            if i + 1 < len(self.scales):
                total = total + pyramid.spread(codes[-1], i)
                below = F.interpolate(total, size=self.scales[i + 1], mode="area")
                x = self.word_embed(below.flatten(2).transpose(1, 2)).repeat(2, 1, 1)
        return torch.cat(codes, dim=1)


class Pyramid(nn.Module):
    """Codebook and convolutions of the tokenizer; `phi_by_scale` says which of them each scale uses."""

    def __init__(
        self, scales: tuple[int, ...], codes: int, features: int, phi_by_scale: tuple[int, ...], ratio: float
    ):
        super().__init__()
        self.scales, self.phi_by_scale, self.ratio = scales, phi_by_scale, ratio
        self.embedding = nn.Embedding(codes, features)
        self.quant_resi: Any = nn.Module()
        self.quant_resi.qresi_ls = nn.ModuleList(
            nn.Conv2d(features, features, 3, padding=1) for _ in range(max(phi_by_scale) + 1)
        )

    def spread(self, codes: Tensor, scale: int) -> Tensor:
        """What the codes [B, m] of a scale add to the grid, [B, C, side, side]."""
        side = self.scales[scale]
        h = self.embedding(codes).transpose(1, 2).unflatten(2, (side, side))
        if side != self.scales[-1]:
            h = F.interpolate(h, size=self.scales[-1], mode="bicubic")
        phi = self.quant_resi.qresi_ls[self.phi_by_scale[scale]]
        return (1 - self.ratio) * h + self.ratio * phi(h)
