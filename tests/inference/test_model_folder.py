"""The folder that vLLM reads, against the GGUF that it was made of."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.model_files import SMOLLM2, ModelFilesError, find_weights
from inference.model_folder import load_model_folder
from tests.inference.test_tokenizer import KNOWN, TEXTS

# Control tokens that a text spells, whole and in parts: whoever reads this folder encodes a rendered template.
SPELT = (
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "12<|im_end|>34 <|im_end|> <|im_end|>",
    "<|im_start|><|im_start|><|endoftext|>",
    "<repo_name>isthmus/main<file_sep>README.md<empty_output>",
    "<|im_start", "< |im_end|>", "<|IM_END|>", "|im_end|>",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(cache_dir: Path) -> Path:
    return load_model_folder(SMOLLM2, cache_dir)


@pytest.fixture(scope="module")
def converted(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def reference() -> Any:
    """The tokenizer that another library makes of the same GGUF. It truncates at 8,192 tokens."""
    import openvino_genai

    return openvino_genai.Tokenizer(str(find_weights(SMOLLM2)))


def _ids(reference: Any, text: str) -> list[int]:
    ids: list[int] = reference.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    assert len(ids) < 8_192
    return ids


def _documents() -> Iterator[Path]:
    """This repository's own texts: prose, code of six languages, tables, digests."""
    root = Path(__file__).parents[2]
    for pattern in ("*.md", "docs/*.md", "inference/*.py", "context_store/scripts/*.lua", "protos/isthmus/**/*.proto",
                    "k8s/base/*.yaml", "benchmarks/*.sh", "benchmarks/*.txt"):  # fmt: skip
        yield from sorted(root.glob(pattern))


@pytest.mark.parametrize("text", [*TEXTS, *SPELT])
def test_a_text_has_the_ids_of_the_ggufs_own_tokenizer(
    converted: tokenizers.Tokenizer, reference: Any, text: str
) -> None:
    assert converted.encode(text, add_special_tokens=False).ids == _ids(reference, text)


def test_every_document_has_the_ids_of_the_ggufs_own_tokenizer(converted: tokenizers.Tokenizer, reference: Any) -> None:
    documents = {path: path.read_text(encoding="utf-8")[:12_000] for path in _documents()}
    assert len(documents) > 40
    other = [
        path.name
        for path, text in documents.items()
        if converted.encode(text, add_special_tokens=False).ids != _ids(reference, text)
    ]
    assert not other


@settings(max_examples=500)
@given(st.lists(st.one_of(st.text(KNOWN), st.sampled_from(SPELT), st.integers().map(str)), max_size=12).map("".join))
def test_any_text_has_the_ids_of_the_ggufs_own_tokenizer(
    converted: tokenizers.Tokenizer, reference: Any, text: str
) -> None:
    expected = _ids(reference, text) if text else []
    assert converted.encode(text, add_special_tokens=False).ids == expected


def test_rotary_pairs_are_taken_apart_and_nothing_else_is_moved(folder: Path) -> None:
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(find_weights(SMOLLM2)).tensors}
    original = {
        part: dequantize(tensors[f"blk.7.{part}.weight"].data, tensors[f"blk.7.{part}.weight"].tensor_type)
        for part in ("attn_q", "attn_k", "attn_v", "ffn_down")
    }
    stored = _read(folder / "model.safetensors", "model.layers.7.")
    assert _close(stored["self_attn.v_proj.weight"], original["attn_v"])
    assert _close(stored["mlp.down_proj.weight"], original["ffn_down"])
    for name, part, heads in (("q_proj", "attn_q", 9), ("k_proj", "attn_k", 3)):
        found = stored[f"self_attn.{name}.weight"].reshape(heads, 64, 576)
        pairs = original[part].reshape(heads, 64, 576)
        assert _close(found[:, :32], pairs[:, 0::2])
        assert _close(found[:, 32:], pairs[:, 1::2])


def _read(path: Path, prefix: str) -> dict[str, Any]:
    """The tensors whose names begin so, as float32."""
    content = np.memmap(path, dtype=np.uint8)
    size = struct.unpack("<Q", content[:8].tobytes())[0]
    header = json.loads(content[8 : 8 + size].tobytes())
    assert {header[name]["dtype"] for name in header if name != "__metadata__"} == {"BF16"}
    tensors = {}
    for name in header:
        if name.startswith(prefix):
            begin, end = (8 + size + offset for offset in header[name]["data_offsets"])
            bits = content[begin:end].view("<u2").astype(np.uint32) << 16
            tensors[name.removeprefix(prefix)] = bits.view(np.float32).reshape(header[name]["shape"])
    return tensors


def _close(found: Any, expected: Any) -> bool:
    """Equal but for bfloat16's eight bits."""
    return bool(np.all(np.abs(found - expected) <= np.abs(expected) / 256))


def test_the_folder_is_read_again_and_mended_when_damaged(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "models" / folder.name
    shutil.copytree(folder, copy)
    untouched = (copy / "model.safetensors").stat().st_mtime_ns
    assert load_model_folder(SMOLLM2, tmp_path) == copy
    assert (copy / "model.safetensors").stat().st_mtime_ns == untouched

    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(100_000_000)
        file.write(b"damage")
    (copy / "config.json").unlink()
    load_model_folder(SMOLLM2, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert not [path.name for path in copy.parent.iterdir() if path.name.startswith(".")]


def test_weights_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="expected 0000"):
        load_model_folder(replace(SMOLLM2, sha256="0000"), tmp_path)
