#!/usr/bin/env bash
# Creates .venv with Python 3.11 and the locked CPU dependencies. Does nothing if that was done for
# the same lock. torch's CPU build is taken from the folder PIP_FIND_LINKS if that is set, else from
# the index TORCH_INDEX_URL (default: PyTorch's own); PIP_INDEX_URL is used for the rest if set.
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
free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
have_kb=$(du -sk .venv 2>/dev/null | cut -f1 || true)
if [ $((free_kb + ${have_kb:-0})) -lt 8000000 ]; then
  echo "error: 8 GB of disk are needed here, $((free_kb / 1000000)) GB are free" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
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
else # PyPI's own torch needs CUDA's libraries, which the lock does not have
  sources=(--extra-index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
           --index-strategy unsafe-best-match)
fi
echo "setup: installing $(grep -cE '^[a-z0-9]' requirements-cpu.lock) locked packages (a few minutes)"
# Compiled once, here: where PYTHONDONTWRITEBYTECODE is set, as in most containers, every process
# would compile what it imports again, which is half of an engine's start.
"$uv" pip install --quiet --no-deps --compile-bytecode "${sources[@]}" -r requirements-cpu.lock || {
  echo "error: the lock cannot be installed (see above). Without a way to PyTorch's index, set" \
    "TORCH_INDEX_URL to one with CPU builds, or PIP_FIND_LINKS to a folder with torch's wheel" >&2
  exit 1
}
.venv/bin/python -c 'import torch' || {
  echo "error: torch is installed but does not load: a CPU build is needed; remove .venv, set" \
    "TORCH_INDEX_URL to an index of CPU builds of torch, and try again" >&2
  exit 1
}
"$uv" pip install --quiet --no-deps -e .
echo "$wanted" > "$stamp"
echo "setup: done"
