"""A small Llama in torch, shaped so that llama.cpp runs it as it is.

Names of weights are those that the GGUF wants (export.py), widths can be divided by 32 (Q4_0), and the
embedding is also the output. Rotary positions turn neighbouring pairs, as llama.cpp does for this
architecture, so no rows have to be permuted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes that make a model; everything else follows from them."""

    pieces: int = 3072
    context: int = 512
    width: int = 256
    layers: int = 5
    heads: int = 4
    shared_heads: int = 2  # heads for keys and values; each serves heads / shared_heads queries
    inner: int = 704
    rotary_base: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        return self.width // self.heads


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        shared = shape.shared_heads * shape.head
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, shared, bias=False)
        self.attn_v = nn.Linear(shape.width, shared, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attend(self.attn_norm(x), cosine, sine)
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def attend(self, h: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, width = h.shape

        def heads(linear: nn.Linear) -> Tensor:
            return linear(h).view(batch, length, -1, self.shape.head).transpose(1, 2)

        queries = turn(heads(self.attn_q), cosine, sine)
        keys = turn(heads(self.attn_k), cosine, sine)
        seen = functional.scaled_dot_product_attention(
            queries, keys, heads(self.attn_v), is_causal=True, enable_gqa=True
        )
        return self.attn_output(seen.transpose(1, 2).reshape(batch, length, width))


class Pebble(nn.Module):
    """Tokens to logits, each position knowing only what stands before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.pieces, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        turns = shape.rotary_base ** -(torch.arange(0, shape.head, 2) / shape.head)
        angles = torch.outer(torch.arange(shape.context), turns)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.token_embd(tokens)
        length = tokens.shape[1]
        for layer in self.blk:
            x = layer(x, self.cosine[:length], self.sine[:length])
        return self.output_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(self.hidden(tokens), self.token_embd.weight)


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)
