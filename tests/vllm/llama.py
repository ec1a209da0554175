"""A Llama in numpy, straight from the GGUF and its definition: slow, short, and sharing nothing with what it checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Llama:
    """The model of a GGUF, in float32."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader, dequantize

        reader = GGUFReader(path)
        self._weights: dict[str, Floats] = {
            tensor.name.removesuffix(".weight"): dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in reader.tensors
        }
        names = ("block_count", "attention.head_count", "attention.head_count_kv", "rope.freq_base")
        layers, heads, key_heads, self._base = (reader.fields[f"llama.{name}"].contents() for name in names)
        self._layers, self._heads, self._key_heads = int(layers), int(heads), int(key_heads)

    def logprobs(self, ids: Sequence[int]) -> Floats:
        """The natural logarithms of what may come after each of `ids`, [ids, vocabulary]."""
        stream = self._weights["token_embd"][list(ids)]
        for layer in range(self._layers):
            stream = stream + self._attention(f"blk.{layer}", stream)
            stream = stream + self._feed_forward(f"blk.{layer}", stream)
        scores = self._norm("output_norm", stream) @ self._weights["token_embd"].T
        scores -= scores.max(axis=-1, keepdims=True)
        logprobs: Floats = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        return logprobs

    def _attention(self, block: str, stream: Floats) -> Floats:
        normed = self._norm(f"{block}.attn_norm", stream)
        queries = self._rotate(self._split(f"{block}.attn_q", normed, self._heads))
        keys = self._rotate(self._split(f"{block}.attn_k", normed, self._key_heads))
        values = self._split(f"{block}.attn_v", normed, self._key_heads)
        keys, values = (np.repeat(each, self._heads // self._key_heads, axis=1) for each in (keys, values))
        scores = np.einsum("thd,shd->hts", queries, keys) / np.sqrt(queries.shape[-1])
        scores += np.triu(np.full((len(stream), len(stream)), -np.inf), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("hts,shd->thd", scores / scores.sum(axis=-1, keepdims=True), values)
        return self._project(f"{block}.attn_output", mixed.reshape(len(stream), -1))

    def _feed_forward(self, block: str, stream: Floats) -> Floats:
        normed = self._norm(f"{block}.ffn_norm", stream)
        gate = self._project(f"{block}.ffn_gate", normed)
        return self._project(f"{block}.ffn_down", gate / (1 + np.exp(-gate)) * self._project(f"{block}.ffn_up", normed))

    def _norm(self, name: str, values: Floats) -> Floats:
        scaled: Floats = values / np.sqrt(np.mean(values**2, axis=-1, keepdims=True) + 1e-5) * self._weights[name]
        return scaled

    def _project(self, name: str, values: Floats) -> Floats:
        projected: Floats = np.asarray(values @ self._weights[name].T, dtype=np.float32)
        return projected

    def _split(self, name: str, values: Floats, heads: int) -> Floats:
        return self._project(name, values).reshape(len(values), heads, -1)

    def _rotate(self, values: Floats) -> Floats:
        """Rotary positions: in a GGUF the two numbers of a pair stand side by side."""
        width = values.shape[-1]
        angles = np.outer(np.arange(len(values)), self._base ** (-np.arange(0, width, 2) / width))[:, None, :]
        pairs = values[..., 0::2] + 1j * values[..., 1::2]
        turned = pairs * np.exp(1j * angles)
        rotated = np.empty_like(values)
        rotated[..., 0::2], rotated[..., 1::2] = turned.real, turned.imag
        return rotated
