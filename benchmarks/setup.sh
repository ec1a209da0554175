#!/usr/bin/env bash
# Makes .bench, the virtual environments of the systems that the benchmarks compare with. Run `make setup` before it.
set -euo pipefail
cd "$(dirname "$0")/.."
# install FOLDER LOCK: an environment with what the lock says, made anew when the lock is newer.
install() {
  if [[ $1/.ready -nt $2 ]]; then return; fi
  .tools/bin/uv venv --quiet --allow-existing --python .venv/bin/python "$1" &&
    .tools/bin/uv pip sync --quiet --python "$1/bin/python" "$2" &&
    touch "$1/.ready"
}
install .bench benchmarks/peers.txt
# Its server modules are not built for every machine; `isthmus bench store` then says what it skipped.
install .bench/store benchmarks/store_peers.txt || echo "benchmarks: the peers of bench store are not installed" >&2
