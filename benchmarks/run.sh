#!/usr/bin/env bash
# One more turn through Isthmus and its peers, or, with `store` first, the context store and its peers: JSON on stdout,
# progress on stderr. Flags go to `isthmus bench turn` or `isthmus bench store`.
set -euo pipefail
cd "$(dirname "$0")/.."
what=turn
if [[ ${1:-} == store ]]; then
  what=store
  shift
fi
make --no-print-directory setup >&2
benchmarks/setup.sh >&2
exec .venv/bin/isthmus bench "$what" --json --peers "$@"
