#!/bin/sh
# The Python environment of the interop tests in .venv, made from tests/interop/requirements.txt; made again only when that
# file changes. PIP_* variables and pip's config are honoured.
set -eu
cd "$(dirname "$0")/.."
want=$(sha256sum tests/interop/requirements.txt)
[ "$(cat .venv/.made-from 2>/dev/null)" = "$want" ] && exit 0
echo "making .venv for the interop tests (PyTorch is about 200 MB) ..."
rm -rf .venv
python3 -m venv .venv
# PyPI's torch brings two gigabytes of CUDA; PyTorch's own index has a CPU build. A machine with an index of its own keeps it.
extra=
if [ -z "${PIP_EXTRA_INDEX_URL:-}${PIP_INDEX_URL:-}" ] && ! .venv/bin/pip config list | grep -q index-url; then
    extra="--extra-index-url https://download.pytorch.org/whl/cpu"
fi
# shellcheck disable=SC2086
.venv/bin/pip install -q --disable-pip-version-check $extra -r tests/interop/requirements.txt
echo "$want" >.venv/.made-from
