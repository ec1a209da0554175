#!/usr/bin/env bash
# Makes .bench, the virtual environment of the systems that the benchmark compares with. Run `make setup` before it.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=benchmarks/peers.txt
if [[ .bench/.ready -nt $lock ]]; then exit 0; fi
.tools/bin/uv venv --quiet --allow-existing --python .venv/bin/python .bench
.tools/bin/uv pip sync --quiet --python .bench/bin/python "$lock"
touch .bench/.ready
