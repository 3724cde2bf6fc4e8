"""The generators of `sampling.py` as one writes them in PyTorch: the networks and generate loops of LlamaGen,
RAR and TiTok's MaskGIT, with a cache of keys and values that is written in place.

Parameters have the names of the official state dicts, so that `jaxtok`'s weight tables carry them over.
PyTorch's fused functions are used wherever there is one, and nothing is computed that a step does not need:
every step of a next-token loop is one new element per row, and attention reads what is filled of the cache.

With `released=True` the next-token loops do what the released code does in a step. LlamaGen's attends to
the whole buffer by a mask, with PyTorch's unfused attention; RAR's joins the cache anew for every token, and
makes embeddings and positions of the whole sequence, of which it keeps the last. (Its tables
have 1,024 positions more than there are tokens, and it copies all of them. Here are but the two in use.)
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Draw = Callable[[Tensor], Tensor]  # logits [B, K] -> ids [B]


def draw(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Draw:
    """How a token is drawn from logits; the likeliest one at temperature 0."""

    def run(logits: Tensor) -> Tensor:
        if not temperature:
            return logits.argmax(dim=-1)
        logits = logits / temperature
        if top_k and top_k < logits.shape[-1]:
            least = logits.topk(top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if top_p < 1:
            ascending, order = logits.sort(dim=-1)
            outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
            logits = logits.masked_fill(outside.scatter(-1, order, outside), -math.inf)
        return torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]

    return run


class Cache:
    """Keys and values [B, H, N, head_dim], written in place."""

    def __init__(self, rows: int, length: int, heads: int, head_dim: int):
        self.keys, self.values = (torch.empty(rows, heads, length, head_dim) for _ in range(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, place: int) -> Tensor:
        """Attention of one new element per row, [B, H, 1, head_dim] each, over those before it and itself."""
        self.keys[:, :, place : place + 1], self.values[:, :, place : place + 1] = k, v
        keys, values = (buffer[:, :, : place + 1] for buffer in (self.keys, self.values))
        return F.scaled_dot_product_attention(q, keys, values)


class MaskedCache(Cache):
    """The same, all of it read for every element."""

    def __init__(self, rows: int, length: int, heads: int, head_dim: int):
        self.keys, self.values = (torch.zeros(rows, heads, length, head_dim) for _ in range(2))
        self.causal = torch.tril(torch.ones(length, length, dtype=torch.bool))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, place: int) -> Tensor:
        self.keys[:, :, [place]], self.values[:, :, [place]] = k, v
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, self.keys, self.values, self.causal[[place]])


class JoinedCache(Cache):
    """Keys and values that are joined anew with those of every element."""

    def __init__(self, rows: int, length: int, heads: int, head_dim: int):
        del length
        self.keys, self.values = (torch.empty(rows, heads, 0, head_dim) for _ in range(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, place: int) -> Tensor:
        del place
        self.keys, self.values = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        return F.scaled_dot_product_attention(q, self.keys, self.values)


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _guide(logits: Tensor, strength: float) -> Tensor:
    conditional, unconditional = logits.chunk(2)
    return conditional + strength * (conditional - unconditional)


# -- LlamaGen --


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.attention: Any = nn.Module()
        self.attention.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.attention.wo = nn.Linear(width, width, bias=False)
        self.feed_forward: Any = nn.Module()
        self.feed_forward.w1, self.feed_forward.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.feed_forward.w2 = nn.Linear(hidden, width, bias=False)
        self.attention_norm, self.ffn_norm = (nn.RMSNorm(width, eps=1e-5) for _ in range(2))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], cache: Cache, place: int) -> Tensor:
        packed = self.attention.wqkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in packed.unbind(2))
        x = x + self.attention.wo(_joined(cache.attend(_rotate(q, rope), _rotate(k, rope), v, place)))
        h, f = self.ffn_norm(x), self.feed_forward
        return x + f.w2(F.silu(f.w1(h)) * f.w3(h))


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = rope
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class LlamaGenerator(nn.Module):
    """`rope` holds cosines and sines [N, head_dim / 2] of the tokens; those of the class are zero."""

    def __init__(self, layers: int, heads: int, width: int, hidden: int, codes: int, classes: int, rope: Any):
        super().__init__()
        self.heads, self.classes = heads, classes
        self.rope = [torch.cat([torch.zeros_like(plane[:1]), plane]) for plane in rope]
        self.cls_embedding: Any = nn.Module()
        self.cls_embedding.embedding_table = nn.Embedding(classes + 1, width)
        self.tok_embeddings = nn.Embedding(codes, width)
        self.layers: Any = nn.ModuleList(LlamaBlock(width, heads, hidden) for _ in range(layers))
        self.norm, self.output = nn.RMSNorm(width, eps=1e-5), nn.Linear(width, codes, bias=False)

    @torch.inference_mode()
    def generate(self, labels: Tensor, strength: float, draw: Draw, released: bool = False) -> Tensor:
        """Codes [B, N]."""
        told = torch.cat([labels, torch.full_like(labels, self.classes)])
        x, tokens = self.cls_embedding.embedding_table(told)[:, None], []
        count, kind = len(self.rope[0]) - 1, MaskedCache if released else Cache
        caches = [kind(len(told), count, self.heads, x.shape[-1] // self.heads) for _ in self.layers]
        for place in range(count):
            for block, cache in zip(self.layers, caches):
                x = block(x, [plane[place] for plane in self.rope], cache, place)
            tokens.append(draw(_guide(self.output(self.norm(x))[:, 0], strength)))
            x = self.tok_embeddings(torch.cat([tokens[-1], tokens[-1]]))[:, None]
        return torch.stack(tokens, dim=1)


# -- RAR --


def _modulation(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, count * width))


class RARBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn: Any = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn.q_norm, self.attn.k_norm = (nn.LayerNorm(width // heads, eps=1e-6) for _ in range(2))
        self.mlp: Any = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor, cache: Cache, place: int) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        packed = self.attn.qkv(self.norm1(x) * (1 + scale1) + shift1).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in packed.unbind(2))
        attended = cache.attend(self.attn.q_norm(q), self.attn.k_norm(k), v, place)
        x = x + gate1 * self.attn.proj(_joined(attended))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp.fc2(F.gelu(self.mlp.fc1(h)))


class RARGenerator(nn.Module):
    def __init__(
        self, layers: int, heads: int, width: int, hidden: int, tokens: int, codes: int, classes: int
    ):
        super().__init__()
        self.heads, self.tokens, self.codes, self.classes = heads, tokens, codes, classes
        self.embeddings = nn.Embedding(codes + classes + 2, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed, self.target_aware_pos_embed, self.timesteps_embeddings = (
            nn.Parameter(torch.zeros(1, tokens + 2, width)) for _ in range(3)
        )
        self.blocks: Any = nn.ModuleList(RARBlock(width, heads, hidden) for _ in range(layers))
        self.adaln_before_head: Any = nn.Module()
        self.adaln_before_head.adaLN_modulation = _modulation(width, 2)
        self.lm_head = nn.Linear(width, codes)

    @torch.inference_mode()
    def generate(
        self, labels: Tensor, strength: float, power: float, draw: Draw, released: bool = False
    ) -> Tensor:
        """Codes [B, N]."""
        told = torch.cat([labels, torch.full_like(labels, self.classes)])[:, None] + self.codes + 1
        kind, head_dim = JoinedCache if released else Cache, self.cls_token.shape[-1] // self.heads
        caches = [kind(len(told), self.tokens + 1, self.heads, head_dim) for _ in self.blocks]
        element = self._released_element if released else self._element
        self._run(*element([told], 0), caches, 0)
        drawn, tokens = [told], []
        for step in range(self.tokens):
            x, c = element(drawn, 1 + step)
            x = self._run(x, c, caches, 1 + step)
            scale, shift = self.adaln_before_head.adaLN_modulation(c).chunk(2, dim=-1)
            x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            now = strength * (1 - math.cos(math.pi * (step / self.tokens) ** power)) / 2
            tokens.append(draw(_guide(self.lm_head(x)[:, 0], now)))
            drawn.append(torch.cat([tokens[-1], tokens[-1]])[:, None])
        return torch.stack(tokens, dim=1)

    def _run(self, x: Tensor, c: Tensor, caches: list[Cache], place: int) -> Tensor:
        for block, cache in zip(self.blocks, caches):
            x = block(x, c, cache, place)
        return x

    def _element(self, drawn: list[Tensor], place: int) -> tuple[Tensor, Tensor]:
        """Input and modulation of the element at a place, [B, 1, D] each.

        Elements are a learned one, the class and the codes; `drawn` has all of them but the learned one.
        """
        told = self.embeddings(drawn[0])
        x = self.embeddings(drawn[-1]) if place else self.cls_token.expand(len(told), -1, -1)
        x = x + self.pos_embed[:, place]
        if place:
            x = x + self.target_aware_pos_embed[:, place + 1]
        return x, told + self.timesteps_embeddings[:, place]

    def _released_element(self, drawn: list[Tensor], place: int) -> tuple[Tensor, Tensor]:
        """The same as the last of a whole sequence, in an order that every row could have for itself."""
        x = self.embeddings(torch.cat(drawn, dim=1))
        rows, told = len(x), x[:, :1]
        x = torch.cat([self.cls_token.expand(rows, -1, -1), x], dim=1)[:, : place + 1]
        order = torch.stack([torch.arange(self.tokens) for _ in range(rows)])
        every = torch.arange(rows)[:, None].expand(-1, self.tokens)
        positions, targets = (
            table.repeat(rows, 1, 1) for table in (self.pos_embed, self.target_aware_pos_embed)
        )
        ordered = torch.cat([positions[:, :2], positions[:, 2:][every, order]], dim=1)
        x = x + ordered[:, : place + 1]
        nothing = torch.zeros_like(x[:, :1])
        targets = torch.cat([nothing, targets[:, 2:][every, order], nothing], dim=1)
        x = x + targets[:, : place + 1]
        return x[:, -1:], (told + self.timesteps_embeddings[:, : place + 1])[:, -1:]


# -- MaskGIT as in TiTok --


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.attention: Any = nn.Module()
        self.attention.self: Any = nn.Module()
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(width, width))
        self.attention.output: Any = _dense(width, width)
        self.attention.output.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.output = _dense(width, hidden), _dense(hidden, width)
        self.output.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.attention.self
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (maps.query, maps.key, maps.value)
        )
        attended = _joined(F.scaled_dot_product_attention(q, k, v))
        x = self.attention.output.LayerNorm(x + self.attention.output.dense(attended))
        hidden = F.gelu(self.intermediate.dense(x))
        return self.output.LayerNorm(x + self.output.dense(hidden))


def _dense(inputs: int, outputs: int) -> Any:
    module: Any = nn.Module()
    module.dense = nn.Linear(inputs, outputs)
    return module


class MaskGITGenerator(nn.Module):
    def __init__(
        self, layers: int, heads: int, width: int, hidden: int, tokens: int, codes: int, classes: int
    ):
        super().__init__()
        self.tokens, self.codes, self.classes = tokens, codes, classes
        self.model: Any = nn.Module()
        embeddings: Any = nn.Module()
        embeddings.word_embeddings = nn.Embedding(codes + classes + 2, width)
        embeddings.position_embeddings = nn.Embedding(tokens + 1, width)
        embeddings.token_type_embeddings = nn.Embedding(2, width)
        embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.model.embeddings, self.model.encoder = embeddings, nn.Module()
        self.model.encoder.layer = nn.ModuleList(BertLayer(width, heads, hidden) for _ in range(layers))
        self.model.lm_head = nn.Linear(width, codes)

    def forward(self, ids: Tensor, told: Tensor) -> Tensor:
        e = self.model.embeddings
        x = e.word_embeddings(torch.cat([told[:, None], ids], dim=1))
        x = e.LayerNorm(x + e.position_embeddings.weight + e.token_type_embeddings.weight[0])
        for layer in self.model.encoder.layer:
            x = layer(x)
        return self.model.lm_head(x[:, 1:])

    @torch.inference_mode()
    def generate(self, labels: Tensor, strength: float, temperature: float, steps: int) -> Tensor:
        """Codes [B, N]; `temperature` falls to 0."""
        told = torch.cat([labels, torch.full_like(labels, self.classes)]) + self.codes + 1
        ids = torch.full((len(labels), self.tokens), self.codes)
        left = self.tokens
        for step in range(steps):
            ratio, masked = (step + 1) / steps, ids == self.codes
            logits = _guide(self(torch.cat([ids, ids]), told), strength * step / steps)
            heat = temperature * (1 - ratio)
            drawn = (logits + heat * _gumbel(logits)).argmax(dim=-1) if heat else logits.argmax(dim=-1)
            confidence = logits.gather(-1, drawn[..., None])[..., 0]
            if heat:
                confidence = confidence + heat * _gumbel(confidence)
            ids = torch.where(masked, drawn, ids)
            if step < steps - 1:
                left = max(1, min(left - 1, math.floor(self.tokens * math.acos(ratio) / (math.pi / 2))))
                confidence = confidence.masked_fill(~masked, math.inf)
                ids.scatter_(1, confidence.topk(left, largest=False).indices, self.codes)
        return ids


def _gumbel(x: Tensor) -> Tensor:
    return -torch.empty_like(x).exponential_().log()
