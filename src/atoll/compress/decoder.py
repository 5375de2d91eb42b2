"""A decoder in torch, in the shape and with the names of weights that a model folder has.

Written once more here because compressing goes through a model layer by layer, with one layer's inputs in
memory at a time; whoever trains on it, or only needs logits, has it as an ordinary module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atoll.compress.shape import Shape, Turning

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Norm(nn.Module):
    """Root mean square; Gemma keeps its weights less one."""

    def __init__(self, width: int, epsilon: float, extra: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - extra))
        self.epsilon, self.extra = epsilon, extra

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight + self.extra, self.epsilon)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        own, shared = shape.heads * shape.head, shape.shared_heads * shape.head
        self.head = shape.head
        self.q_proj = nn.Linear(shape.width, own, bias=shape.has_bias)
        self.k_proj = nn.Linear(shape.width, shared, bias=shape.has_bias)
        self.v_proj = nn.Linear(shape.width, shared, bias=shape.has_bias)
        self.o_proj = nn.Linear(own, shape.width, bias=shape.has_output_bias)
        if shape.has_head_norms:
            self.q_norm = Norm(shape.head, shape.epsilon, 0.0)
            self.k_norm = Norm(shape.head, shape.epsilon, 0.0)
        self.has_head_norms = shape.has_head_norms

    def forward(self, h: Tensor, angles: Tensor) -> Tensor:
        batch, length, _ = h.shape

        def heads(made: Tensor) -> Tensor:
            return made.view(batch, length, -1, self.head).transpose(1, 2)

        queries, keys = heads(self.q_proj(h)), heads(self.k_proj(h))
        if self.has_head_norms:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        seen = functional.scaled_dot_product_attention(
            turn(queries, angles),
            turn(keys, angles),
            heads(self.v_proj(h)),
            is_causal=True,
            enable_gqa=True,
        )
        out: Tensor = self.o_proj(seen.transpose(1, 2).reshape(batch, length, -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)
        self.is_silu = shape.activation == "silu"

    def forward(self, h: Tensor) -> Tensor:
        gate = self.gate_proj(h)
        gate = functional.silu(gate) if self.is_silu else functional.gelu(gate, approximate="tanh")
        out: Tensor = self.down_proj(gate * self.up_proj(h))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        extra = 1.0 if shape.is_gemma else 0.0
        self.input_layernorm = Norm(shape.width, shape.epsilon, extra)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape.epsilon, extra)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """In the order in which a token goes through them."""
        for name in LINEARS:
            part = self.self_attn if hasattr(self.self_attn, name) else self.mlp
            yield name, getattr(part, name)


class Body(nn.Module):
    """Everything but the output; a folder calls it `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.pieces, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.epsilon, 1.0 if shape.is_gemma else 0.0)


class Decoder(nn.Module):
    """Tokens to logits, each position knowing only what stands before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        if not shape.is_tied:
            self.lm_head = nn.Linear(shape.width, shape.pieces, bias=False)

    @property
    def output_weight(self) -> Tensor:
        weight: Tensor = self.model.embed_tokens.weight if self.shape.is_tied else self.lm_head.weight
        return weight

    def embed(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.model.embed_tokens(tokens)
        return found * self.shape.width**0.5 if self.shape.is_gemma else found

    def angles(self, length: int) -> Tensor:
        return angles(self.shape.turning, self.shape.head, length)

    def hidden(self, tokens: Tensor) -> Tensor:
        x, turned = self.embed(tokens), self.angles(tokens.shape[1])
        for layer in self.model.layers:
            x = layer(x, turned)
        out: Tensor = self.model.norm(x)
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(self.hidden(tokens), self.output_weight)


def angles(turning: Turning, head: int, length: int) -> Tensor:
    speeds = turning.base ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    if turning.factor != 1.0:
        speeds = speeds / torch.tensor(turning.slowed(head), dtype=torch.float64)
    return torch.outer(torch.arange(length, dtype=torch.float64), speeds).float()


def turn(x: Tensor, turned: Tensor) -> Tensor:
    """The first half of a head against its second."""
    cosine, sine = turned.cos(), turned.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
