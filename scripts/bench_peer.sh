#!/bin/sh
# Builds the peer of bench/engine_vs_llamacpp.py: llama.cpp's llama-bench and llama-batched-bench, natively optimised, from
# the source package of llama-cpp-python on PyPI, into build/peer/. Takes some ten minutes on two cores.
set -eu
version=${1:-0.3.36}
cd "$(dirname "$0")/.."
mkdir -p build/peer
if [ ! -d "build/peer/llama_cpp_python-$version" ]; then
    python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest build/peer \
        "llama-cpp-python==$version" || python3 - "$version" build/peer <<'PY'
# pip wants the package's build system only to read its metadata; without it, fetch the archive that PyPI lists.
import hashlib, json, sys, urllib.request
version, out = sys.argv[1:]
with urllib.request.urlopen(f"https://pypi.org/pypi/llama-cpp-python/{version}/json") as f:
    sdist = next(u for u in json.load(f)["urls"] if u["packagetype"] == "sdist")
with urllib.request.urlopen(sdist["url"]) as f:
    data = f.read()
if hashlib.sha256(data).hexdigest() != sdist["digests"]["sha256"]:
    sys.exit(f"{sdist['filename']}: wrong SHA-256")
open(f"{out}/{sdist['filename']}", "wb").write(data)
PY
    tar -C build/peer -xzf "build/peer/llama_cpp_python-$version.tar.gz"
fi
cmake -G Ninja -S "build/peer/llama_cpp_python-$version/vendor/llama.cpp" -B build/peer/llama -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TOOLS=ON >/dev/null
ninja -C build/peer/llama llama-bench llama-batched-bench
ln -sfn llama/bin build/peer/bin
echo "built build/peer/bin/llama-bench and llama-batched-bench"
