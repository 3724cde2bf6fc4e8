"""The priors of Instella-T2I as one writes them in PyTorch, see `torch_instella.py`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.torch_instella import Attention, KeysValues, Rope, TokenizerBlock


class ByteEncoder(nn.Module):
    """Caption bytes [B, T] to the output of every layer."""

    def __init__(self, vocabulary: int, layers: int, heads: int, head_dim: int, rope: Rope):
        super().__init__()
        self.rope = rope
        self.bytes = nn.Embedding(vocabulary, heads * head_dim)
        self.blocks = nn.ModuleList(TokenizerBlock(heads, head_dim) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        x, hidden = self.bytes(ids), []
        for block in self.blocks:
            x = block(x, self.rope, mask[:, None, None])
            hidden.append(x)
        return hidden


class GELUFeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        up = nn.Module()
        up.proj = nn.Linear(width, 4 * width)
        self.net: Any = nn.ModuleList([up, nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class Modulation(nn.Module):
    def __init__(self, width: int, count: int):
        super().__init__()
        self.count, self.linear = count, nn.Linear(width, count * width)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(c))[:, None].chunk(self.count, dim=-1)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PriorBlock(nn.Module):
    def __init__(self, heads: int, head_dim: int, positions: int, text_width: int, timed: bool):
        super().__init__()
        width = heads * head_dim
        self.attn = Attention(heads, head_dim)
        self.proj_cond = nn.Linear(text_width, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, positions, width))
        if timed:
            self.norm1, self.ff = Modulation(width, 6), GELUFeedForward(width)
        else:
            self.input_layernorm, self.post_attention_layernorm = (
                nn.RMSNorm(width, eps=1e-6) for _ in range(2)
            )
            self.mlp = GELUFeedForward(width)
        self.timed = timed

    def context(self, text: Tensor) -> KeysValues:
        return self.attn.keys_values(self.proj_cond(text))

    def forward(self, x: Tensor, time: Tensor | None, first: int = 0, **attention) -> Tensor:
        positions = self.pos_emb[:, first : first + x.shape[1]]
        if time is None:
            x = x + self.attn(self.input_layernorm(x) + positions, **attention)
            return x + self.mlp(self.post_attention_layernorm(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.norm1(time)
        h = _layer_norm(x) * (1 + scale1) + shift1 + positions
        x = x + gate1 * self.attn(h, **attention)
        return x + gate2 * self.ff(_layer_norm(x) * (1 + scale2) + shift2)


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(1, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(t[:, None])))


class Prior(nn.Module):
    """Bit-flip diffusion (`timed`) or next-token prediction of bits [B, N, n] under caption bytes."""

    def __init__(
        self,
        bits: int,
        tokens: int,
        layers: int,
        heads: int,
        head_dim: int,
        timed: bool,
        text: ByteEncoder,
        null: tuple[Tensor, Tensor],
        dropout: float,
    ):
        super().__init__()
        width, text_width = heads * head_dim, text.bytes.embedding_dim
        self.bits, self.tokens, self.timed, self.dropout = bits, tokens, timed, dropout
        self.text, self.null = text, null
        self.x_embedder = nn.Linear(bits, width)
        self.transformer_blocks: Any = nn.ModuleList(
            PriorBlock(heads, head_dim, tokens + (not timed), text_width, timed) for _ in range(layers)
        )
        if timed:
            self.time_embed, self.norm_out = TimeEmbedding(width), Modulation(width, 2)
        else:
            self.norm_out = nn.RMSNorm(width, eps=1e-6)
            self.split_token = nn.Parameter(torch.zeros(1, 1, width))
        self.proj_out = nn.Linear(width, bits)

    def contexts(self, ids: Tensor, mask: Tensor) -> list[KeysValues]:
        """Keys and values of the caption, per layer."""
        hidden, layers = self.text(ids, mask), len(self.transformer_blocks)
        chosen = [hidden[index * len(hidden) // layers] for index in range(layers)]
        return [block.context(features) for block, features in zip(self.transformer_blocks, chosen)]

    def forward(
        self, bits: Tensor, contexts: list[KeysValues], text_mask: Tensor, t: Tensor | None = None
    ) -> Tensor:
        x, tokens = self.x_embedder(bits.float()), bits.shape[1]
        own = torch.ones(tokens, tokens, dtype=torch.bool)
        if not self.timed:
            x = torch.cat([self.split_token.expand(len(x), -1, -1), x[:, :-1]], dim=1)
            own = own.tril()
        text = text_mask[:, None].expand(-1, tokens, -1)
        mask = torch.cat([text, own.expand(len(x), -1, -1)], dim=-1)[:, None]
        time = self.time_embed(t) if self.timed else None
        for block, context in zip(self.transformer_blocks, contexts):
            x = block(x, time, prefix=context, mask=mask)
        return self._head(x, time)

    def loss(self, bits: Tensor, ids: Tensor, mask: Tensor, noise: "Noise | None" = None) -> Tensor:
        dropped, t, flips = noise or self._noise(bits)
        if dropped is not None:
            ids = torch.where(dropped[:, None], self.null[0], ids)
            mask = torch.where(dropped[:, None], self.null[1], mask)
        contexts = self.contexts(ids, mask)
        if flips is None:
            return F.binary_cross_entropy_with_logits(self(bits, contexts, mask), bits.float())
        # The cross-entropy of the clean bit is that of "was it flipped".
        return F.binary_cross_entropy_with_logits(self(bits ^ flips, contexts, mask, t), flips.float())

    @torch.inference_mode()
    def sample_tokens(self, ids: Tensor, mask: Tensor, guidance: float, temperature: float = 1.0) -> Tensor:
        """Next-token sampling with a cache that is written in place."""
        ids, mask = self._doubled(ids, mask)
        contexts, text = self.contexts(ids, mask), ids.shape[1]
        caches = [tuple(F.pad(x, (0, 0, 0, self.tokens)) for x in context) for context in contexts]
        visible = F.pad(mask, (0, self.tokens), value=True)[:, None, None]
        x, tokens = self.split_token.expand(len(ids), -1, -1), []
        for position in range(self.tokens):
            end = text + position
            for block, (keys, values) in zip(self.transformer_blocks, caches):
                x = block(x, None, position, cache=(keys, values, end), mask=visible[..., : end + 1])
            logits = _guide(self._head(x, None), guidance)
            if temperature:
                bits = torch.rand_like(logits) < torch.sigmoid(logits / temperature)
            else:
                bits = logits > 0
            tokens.append(bits)
            x = self.x_embedder(torch.cat([bits, bits]).float())
        return torch.cat(tokens, dim=1)

    @torch.inference_mode()
    def sample_bits(self, ids: Tensor, mask: Tensor, guidance: float, steps: int) -> Tensor:
        """Bit-flip diffusion with the exact one-step posterior."""
        rows = len(ids)
        ids, mask = self._doubled(ids, mask)
        contexts = self.contexts(ids, mask)
        bits = torch.rand(rows, self.tokens, self.bits) < 0.5
        for step in range(steps):
            t, s = 1 - step / steps, 1 - (step + 1) / steps
            output = self(torch.cat([bits, bits]), contexts, mask, torch.full((2 * rows,), t))
            output = _guide(output, guidance)
            p0 = torch.sigmoid(torch.where(bits, -output, output))
            keep = 0.5 * (1 + (1 - t) / (1 - s))
            likelihood = torch.where(bits, keep, 1 - keep)
            p = p0 * _posterior(1 - s / 2, likelihood) + (1 - p0) * _posterior(s / 2, likelihood)
            bits = torch.rand_like(p) < p if step < steps - 1 else p0 > 0.5
        return bits

    def _head(self, x: Tensor, time: Tensor | None) -> Tensor:
        if time is None:
            return self.proj_out(self.norm_out(x))
        scale, shift = self.norm_out(time)
        return self.proj_out(_layer_norm(x) * (1 + scale) + shift)

    def _noise(self, bits: Tensor) -> "Noise":
        dropped = torch.rand(len(bits)) < self.dropout
        if not self.timed:
            return dropped, None, None
        t = torch.sigmoid(torch.randn(len(bits)))
        return dropped, t, torch.rand(bits.shape) < t[:, None, None] / 2

    def _doubled(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        null_ids, null_mask = (x.expand(len(ids), -1) for x in self.null)
        return torch.cat([ids, null_ids]), torch.cat([mask, null_mask])


# Captions to drop [B], times [B] and flips [B, N, n] of a training step.
Noise = tuple[Tensor | None, Tensor | None, Tensor | None]


def _guide(logits: Tensor, w: float) -> Tensor:
    conditional, unconditional = logits.chunk(2)
    return conditional + w * (conditional - unconditional)


def _posterior(prior: float, likelihood: Tensor) -> Tensor:
    on = prior * likelihood
    return on / (on + (1 - prior) * (1 - likelihood)).clamp_min(1e-12)
