"""The weights and the configuration of a Llama-shaped GGUF, as Hugging Face's `LlamaForCausalLM` names and lays them.

Two things differ between the formats. Names, and the order of q's and k's rows: llama.cpp keeps the two numbers of a
rotary pair side by side, Hugging Face keeps the first numbers of all pairs before all second ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.model_files import ModelFilesError

# Numbers in bfloat16, which numpy does not have: the upper half of a float32, as an integer.
Bfloat16 = NDArray[np.uint16]

_ARCHITECTURE: Final = "llama"
_OUTER: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# The tokenizer has 50 thousand entries, and reading them takes longer than all weights.
_UNREAD: Final = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")


class LlamaWeights:
    """What a GGUF holds beside its tokenizer. Raises ModelFilesError for anything but a plain Llama."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader  # only a conversion needs it

        self._reader = GGUFReader(path)
        self._fields: Mapping[str, Any] = {
            name: field.contents() for name, field in self._reader.fields.items() if name not in _UNREAD
        }
        found = self._fields["general.architecture"]
        if found != _ARCHITECTURE:
            raise ModelFilesError(f"{path} has the architecture {found!r}; expected {_ARCHITECTURE!r}")

    def tensors(self) -> Iterator[tuple[str, Bfloat16]]:
        """Every tensor under its new name, dequantised, row-major."""
        from gguf import dequantize

        heads = {"attn_q": self._number("attention.head_count"), "attn_k": self._number("attention.head_count_kv")}
        for tensor in self._reader.tensors:
            name, part = _rename(tensor.name)
            values = _bfloat16(dequantize(tensor.data, tensor.tensor_type))
            yield name, _pairs_apart(values, heads[part]) if part in heads else values

    def config(self) -> dict[str, Any]:
        """`config.json`."""
        width, heads = self._number("embedding_length"), self._number("attention.head_count")
        names = {tensor.name for tensor in self._reader.tensors}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self._number("vocab_size"),
            "hidden_size": width,
            "intermediate_size": self._number("feed_forward_length"),
            "num_hidden_layers": self._number("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv"),
            "head_dim": width // heads,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rms_norm_eps": self._fields["llama.attention.layer_norm_rms_epsilon"],
            "rope_parameters": {"rope_type": "default", "rope_theta": self._fields["llama.rope.freq_base"]},
            "max_position_embeddings": self._number("context_length"),
            "tie_word_embeddings": "output.weight" not in names,
            "dtype": "bfloat16",
            **self.ends(),
        }

    def ends(self) -> dict[str, Any]:
        """The ids of the tokens that begin, end and fill up a text."""
        names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
        return {name: self._fields[f"tokenizer.ggml.{field}"] for name, field in names.items()}

    def _number(self, field: str) -> int:
        return int(self._fields[f"{_ARCHITECTURE}.{field}"])


def _rename(name: str) -> tuple[str, str]:
    """`blk.7.attn_q.weight` is `model.layers.7.self_attn.q_proj.weight`, and its part is `attn_q`."""
    stem = name.removesuffix(".weight")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.weight", stem
    block, number, part = stem.split(".") if stem.count(".") == 2 else ("", "", stem)
    if block != "blk" or part not in _INNER:
        raise ModelFilesError(f"a tensor {name!r}; expected one of a plain Llama's")
    return f"model.layers.{number}.{_INNER[part]}.weight", part


def _bfloat16(values: NDArray[np.float32]) -> Bfloat16:
    """Rounded to nearest, ties to even. No weight is so large that rounding up would make it infinite, or no number."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _pairs_apart(values: Bfloat16, heads: int) -> Bfloat16:
    """Within each head, from rows of pairs (a0 b0 a1 b1 …) to rows a0 a1 … b0 b1 …"""
    rows, width = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, width)
