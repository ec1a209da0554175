"""A model that is cheap enough for a million tokens on two cores: real attention over a sliding window, random weights.

It says nothing sensible. What it costs to read a prompt, to find its prefix in the cache and to go on is real, and
grows with the prompt as a large model's does.

    python -m inference.million_model FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

TOKENS_MAX: Final = 2_000_000
SLIDING_WINDOW_TOKENS: Final = 4_096
_LAYERS: Final = 2
_WIDTH: Final = 64
_INNER_WIDTH: Final = 128
_HEADS: Final = 2
_KEY_HEADS: Final = 1
_HEAD_WIDTH: Final = _WIDTH // _HEADS
# Ten times what an untrained model begins with: attention then has favourites, and a reply depends on the whole window
# instead of on its last tokens.
_DEVIATION: Final = 0.25
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_million_model(folder: Path, like: Path, seed: int = 0) -> None:
    """Writes a Mistral-shaped model into `folder`, with the tokenizer of the model folder `like`.

    The same seed gives the same weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES:
        (folder / name).write_bytes((like / name).read_bytes())
    config = _config(json.loads((like / "config.json").read_text(encoding="utf-8")))
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    random = np.random.default_rng(seed)
    tensors = {name: _random(random, shape) for name, shape in _shapes(config["vocab_size"])}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config(like: dict[str, Any]) -> dict[str, Any]:
    """`config.json`; `like` gives the vocabulary and the tokens that end a text."""
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": _WIDTH,
        "intermediate_size": _INNER_WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_HEADS,
        "head_dim": _HEAD_WIDTH,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_window": SLIDING_WINDOW_TOKENS,
        "max_position_embeddings": TOKENS_MAX,
        "tie_word_embeddings": False,
        "dtype": "float32",
        **{name: like[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")},
    }


def _shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocabulary, _WIDTH)
    yield "lm_head.weight", (vocabulary, _WIDTH)
    yield "model.norm.weight", (_WIDTH,)
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (_WIDTH,)
        yield f"{prefix}.post_attention_layernorm.weight", (_WIDTH,)
        yield f"{prefix}.self_attn.q_proj.weight", (_HEADS * _HEAD_WIDTH, _WIDTH)
        yield f"{prefix}.self_attn.k_proj.weight", (_KEY_HEADS * _HEAD_WIDTH, _WIDTH)
        yield f"{prefix}.self_attn.v_proj.weight", (_KEY_HEADS * _HEAD_WIDTH, _WIDTH)
        yield f"{prefix}.self_attn.o_proj.weight", (_WIDTH, _HEADS * _HEAD_WIDTH)
        yield f"{prefix}.mlp.gate_proj.weight", (_INNER_WIDTH, _WIDTH)
        yield f"{prefix}.mlp.up_proj.weight", (_INNER_WIDTH, _WIDTH)
        yield f"{prefix}.mlp.down_proj.weight", (_WIDTH, _INNER_WIDTH)


def _random(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Norms are ones, everything else is drawn."""
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    return random.standard_normal(shape, dtype=np.float32) * np.float32(_DEVIATION)


def main() -> None:
    """Converts the shipped model for its tokenizer, and writes the folder."""
    from inference.model_files import SMOLLM2
    from inference.model_folder import load_model_folder
    from services.config import load_settings

    parser = argparse.ArgumentParser(description="Writes a random model with a window of two million tokens.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    like = load_model_folder(SMOLLM2, load_settings().inference.cache_dir)
    write_million_model(arguments.folder, like, arguments.seed)


if __name__ == "__main__":
    main()
