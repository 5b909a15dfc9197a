#!/usr/bin/env bash
# Make the checkout's Python environment (.venv), or bring it up to date.
# Usage: Testing/environment.sh demo|test|benchmark     (what pyproject.toml lists under that extra is installed)
# PYTHON, where set, is the interpreter to make it with.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=Testing/requirements.txt

find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        # Tried rather than looked up: the name may stand for an interpreter that is not there.
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.10 or newer with venv was found (tried: ${candidates[*]});" \
        "install one, or name it with 'make PYTHON=/path/to/python3'." >&2
    return 1
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check --constraint "$pins" "$@"
}

# The CPU build (version ...+cpu) unless there is an NVIDIA GPU: the one on PyPI for Linux brings gigabytes of CUDA.
install_torch() {
    local version
    version=$(sed -n 's/^torch==//p' "$pins")
    if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
        # Without dependencies, which come from PyPI afterwards at the pinned versions.
        install --no-deps --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu \
            "torch==$version+cpu" && return
        echo "The CPU build of PyTorch could not be had; taking PyPI's, which is larger."
    fi
    install "torch==$version"
}

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear .venv
fi
install "$(grep '^setuptools==' "$pins")"
install_torch
install --no-build-isolation --editable ".[$1]"
