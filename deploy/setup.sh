#!/usr/bin/env bash
# Creates .venv with Python 3.11 and the locked CPU dependencies. Does nothing if that was done for
# the same lock. PIP_FIND_LINKS (a folder of wheels), TORCH_INDEX_URL (an index of CPU builds of
# torch) and PIP_INDEX_URL are used if they are set.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
wanted=$(cat requirements-cpu.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=$(command -v "${PYTHON:-python3.11}") || {
  echo "error: ${PYTHON:-python3.11} not found: install Python 3.11, or say make PYTHON=/path/to/it" >&2
  exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "error: $python is not Python 3.11: say make PYTHON=/path/to/python3.11" >&2
  exit 1
}
if [ ! -x .venv/bin/python ]; then
  free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
  if [ "$free_kb" -lt 8000000 ]; then
    echo "error: 8 GB of disk are needed here, $((free_kb / 1000000)) GB are free" >&2
    exit 1
  fi
  echo "setup: creating .venv with $python"
  "$python" -m venv .venv
fi

uv=$(command -v .venv/bin/uv || command -v uv || true)
if ! "${uv:-false}" --version >/dev/null 2>&1; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
  uv=.venv/bin/uv
fi
export VIRTUAL_ENV="$PWD/.venv"
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"
sources=()
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  sources=(--find-links "$PIP_FIND_LINKS")
elif [ -n "${TORCH_INDEX_URL:-}" ]; then # an index of CPU builds; PyPI's own torch brings CUDA along
  sources=(--extra-index-url "$TORCH_INDEX_URL" --index-strategy unsafe-best-match)
fi
echo "setup: installing $(grep -cE '^[a-z0-9]' requirements-cpu.lock) locked packages (a few minutes)"
"$uv" pip install --quiet --no-deps "${sources[@]}" -r requirements-cpu.lock
"$uv" pip install --quiet --no-deps -e .
echo "$wanted" > "$stamp"
echo "setup: done"
