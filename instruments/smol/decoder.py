"""SmolLM2's forward for training: one image prefix serves all of its questions, LoRA sits on fused projections.

A scene's 144 visual tokens run through the decoder once; its questions (padded to one length, causal among
themselves) attend to the prefix's keys and to their own. That is what a batch of (image, question) rows computes, for
a tenth of the tokens. The frozen weights are bf16, the trained ones fp32. `merged` gives the weights of transformers'
Llama back.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig

FUSED = {"qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "o": ("self_attn.o_proj",)}
FUSED |= {"gu": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",)}


Watch = Callable[[int, Tensor, Tensor], Tensor]


class Decoder(nn.Module):
    """Llama with frozen weights, LoRA of rank `rank` on every projection."""

    def __init__(self, config: LlamaConfig, weights: dict[str, Tensor], rank: int, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.config, self.dtype, self.rank = config, dtype, rank
        keep = lambda name, value: self.register_buffer(name, value.to(dtype).contiguous(), persistent=False)  # noqa: E731
        keep("embed", weights["model.embed_tokens.weight"])
        keep("last_norm", weights["model.norm.weight"])
        self.lora = nn.ParameterDict()
        for i in range(config.num_hidden_layers):
            at = f"model.layers.{i}."
            keep(f"norm1_{i}", weights[f"{at}input_layernorm.weight"])
            keep(f"norm2_{i}", weights[f"{at}post_attention_layernorm.weight"])
            for name, parts in FUSED.items():
                fused = torch.cat([weights[f"{at}{part}.weight"] for part in parts])
                keep(f"{name}_{i}", fused)
                self.lora[f"{name}_{i}_a"] = nn.Parameter(torch.randn(rank, fused.shape[1]) / math.sqrt(fused.shape[1]))
                self.lora[f"{name}_{i}_b"] = nn.Parameter(torch.zeros(fused.shape[0], rank))
        theta = config.rope_parameters["rope_theta"]
        half = config.head_dim // 2
        self.register_buffer("rates", theta ** (-torch.arange(half) / half), persistent=False)

    @classmethod
    def from_folder(cls, folder: Path, rank: int, dtype: torch.dtype = torch.bfloat16) -> "Decoder":
        """From a folder with config.json and model.safetensors."""
        return cls(LlamaConfig.from_pretrained(folder), load_file(folder / "model.safetensors"), rank, dtype)

    def project(self, name: str, layer: int, x: Tensor) -> Tensor:
        """x W^T + x A^T B^T; rank 0 is the plain model."""
        if not self.rank:
            return x @ getattr(self, f"{name}_{layer}").T
        a, b = (self.lora[f"{name}_{layer}_{m}"].to(self.dtype) for m in "ab")
        return torch.addmm(x @ getattr(self, f"{name}_{layer}").T, x @ a.T, b.T)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last axis."""
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def turned(self, heads_BHTC: Tensor, cos_BTC: Tensor, sin_BTC: Tensor) -> Tensor:
        """Rotary embedding."""
        first, second = heads_BHTC.chunk(2, -1)
        return heads_BHTC * cos_BTC[:, None] + torch.cat([-second, first], -1) * sin_BTC[:, None]

    def forward(
        self,
        prefix_BND: Tensor,
        text_BKLD: Tensor,
        places_BN: Tensor,
        first_B: Tensor,
        real_BKL: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """States of the questions after the last norm, (B, K, L, D).

        Args:
            prefix_BND: embeddings of what stands before the questions, pruned or not.
            text_BKLD: embeddings of the questions, padded at the end.
            places_BN: position ids of the prefix (all of them, or those that pruning keeps).
            first_B: position id of a question's first token.
            real_BKL: False where a question is padded; only attention is computed there. None: all are real.
            watch: called in each layer with its number, the logits of the questions' tokens towards the prefix,
                (B, groups, heads of a group, K, L, N), and towards their own question, masked (..., K, L, L); what it
                returns is used in place of the former.
        """
        B, N, D = prefix_BND.shape
        K, L = text_BKLD.shape[1:3]
        H, G, C = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        real_BKL = torch.ones(B, K, L, dtype=torch.bool, device=first_B.device) if real_BKL is None else real_BKL
        rows = real_BKL.flatten().nonzero()[:, 0]
        own = (first_B[:, None, None] + torch.arange(L, device=first_B.device).expand(B, K, L)).reshape(B, K * L)
        turns = [self.angles(places_BN), self.angles(own)]
        x = torch.cat([prefix_BND.reshape(B * N, D), text_BKLD.reshape(B * K * L, D)[rows]]).to(self.dtype)
        later = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
        for i in range(self.config.num_hidden_layers):
            flat = self.project("qkv", i, self.norm(x, getattr(self, f"norm1_{i}")))
            padded = flat.new_zeros(B * K * L, flat.shape[1]).index_copy(0, rows, flat[B * N :])
            parts = [t.view(B, -1, H + 2 * G, C).transpose(1, 2) for t in (flat[: B * N], padded)]
            (q, k, v), (q_text, k_own, v_own) = (t.split((H, G, G), 1) for t in parts)
            q, k = self.turned(q, *turns[0]), self.turned(k, *turns[0])
            q_text, k_own = self.turned(q_text, *turns[1]), self.turned(k_own, *turns[1])
            y_prefix = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            # Questions: the heads that share keys lie side by side, so one product with the prefix serves them all.
            q_text = q_text.reshape(B, G, H // G * K * L, C) * C**-0.5
            to_prefix = (q_text @ k.transpose(-1, -2)).view(B, G, H // G, K, L, N)
            k_own, v_own = (t.reshape(B, G, 1, K, L, C) for t in (k_own, v_own))
            to_own = q_text.view(B, G, H // G, K, L, C) @ k_own.transpose(-1, -2)
            to_own = to_own.masked_fill(later, float("-inf"))
            if watch is not None:
                to_prefix = watch(i, to_prefix, to_own)
            weights = torch.cat([to_prefix, to_own], -1).softmax(-1)
            y_text = (weights[..., :N].reshape(B, G, -1, N) @ v).view(B, H, K * L, C)
            y_text = y_text + (weights[..., N:] @ v_own).reshape(B, H, K * L, C)
            y_flat = y_text.transpose(1, 2).reshape(B * K * L, H * C)[rows]
            x = x + self.project("o", i, torch.cat([y_prefix.transpose(1, 2).reshape(B * N, H * C), y_flat]))
            gate, up = self.project("gu", i, self.norm(x, getattr(self, f"norm2_{i}"))).chunk(2, -1)
            x = x + self.project("down", i, F.silu(gate) * up)
        said = self.norm(x[B * N :], self.last_norm)
        return said.new_zeros(B * K * L, D).index_copy(0, rows, said).view(B, K, L, D)

    def angles(self, places_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of rotary embedding, (B, T, C)."""
        half = places_BT[..., None].float() * self.rates
        whole = torch.cat([half, half], -1)
        return whole.cos().to(self.dtype), whole.sin().to(self.dtype)


def merged(weights: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` of a Llama with LoRA added in fp32: W + B A, cut where the fused matrices were joined."""
    out = dict(weights)
    for key, a in lora.items():
        if not key.endswith("_a"):
            continue
        name, layer, _ = key.split("_")
        delta, row = lora[f"{name}_{layer}_b"].float() @ a.float(), 0
        for part in FUSED[name]:
            whole = f"model.layers.{layer}.{part}.weight"
            rows = weights[whole].shape[0]
            out[whole] = weights[whole].float() + delta[row : row + rows]
            row += rows
    return out
