#!/bin/sh
# Builds the peer of bench/engine_vs_llamacpp.py: llama.cpp's llama-bench and llama-batched-bench, natively optimised, from
# the source package of llama-cpp-python on PyPI, into build/peer/. Takes some ten minutes on two cores. PYTHON names the
# interpreter whose pip is used.
set -eu
version=${1:-0.3.36}
cd "$(dirname "$0")/.."
mkdir -p build/peer
if [ ! -d "build/peer/llama_cpp_python-$version" ]; then
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary :all: --dest build/peer "llama-cpp-python==$version"
    tar -C build/peer -xzf "build/peer/llama_cpp_python-$version.tar.gz"
fi
cmake -G Ninja -S "build/peer/llama_cpp_python-$version/vendor/llama.cpp" -B build/peer/llama -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_UI=OFF >/dev/null
ninja -C build/peer/llama llama-bench llama-batched-bench
ln -sfn llama/bin build/peer/bin
echo "built build/peer/bin/llama-bench and llama-batched-bench"
