# The face of the build. Each target does all its own set-up on a fresh Debian 12 (scripts/deps.sh); the work is CMake's.
.PHONY: build demo test check bench layers install docs leakage host-files deps-build deps-test deps-bench deps-check clean
PREFIX ?= /usr/local

build: deps-build
	@cmake --preset release >/dev/null
	@cmake --build --preset release

# Private chats on this machine, one per protection, in under twenty seconds after the build.
demo: deps-build
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target sotto-cli sotto-worker sotto-node
	@build/bin/sotto demo
	@echo
	@build/bin/sotto demo --protect masked
	@echo
	@build/bin/sotto demo --protect confidential
	@echo
	@build/bin/sotto demo --protect sealed

test: deps-build deps-test build
	@scripts/test.py build

check: deps-build deps-test deps-check
	@scripts/check.sh

# Against llama.cpp on the same shapes, in one run; writes bench/results/. The peer takes ten minutes to build, once.
bench: deps-bench build
	@scripts/bench_peer.sh
	@scripts/venv.sh && .venv/bin/pip install -q gguf==0.19.0
	@.venv/bin/python bench/engine_vs_llamacpp.py
	@.venv/bin/python bench/obfuscated_vs_plain.py
	@.venv/bin/python bench/masked_vs_plain.py
	@.venv/bin/python bench/sealed_vs_plain.py
	@.venv/bin/python bench/confidential_vs_direct.py
	@cmake --build --preset release --target bench_gemm
	@.venv/bin/python bench/obfuscate_rate.py
	@cmake --build --preset release --target proxy_overhead token_rate
	@build/bin/proxy_overhead build/bin/sotto bench/results/proxy.csv
	@build/bin/token_rate > bench/results/tokens.csv

layers:
	@scripts/layers.py

install: build
	@cmake --install build --prefix $(PREFIX)

# The lists of commands come from the programs' own tables.
docs: build
	@build/bin/sotto help --format markdown >docs/commands.md
	@build/bin/sotto-worker help --format markdown >docs/worker_commands.md
	@build/bin/sotto-node help --format markdown >docs/node_commands.md

# What attacks get from the presets that we ship: docs/leakage.md and its charts, from audits.
leakage: build
	@scripts/leakage.sh build/bin/sotto

# What a trusted host needs, with the paths of this machine: a systemd unit and a Gramine manifest (docs/host.md).
host-files: build
	@scripts/host_files.sh $(PREFIX)/bin/sotto build/host build/bin/sotto

deps-build:
	@scripts/deps.sh build
deps-test:
	@scripts/deps.sh build test
deps-bench:
	@scripts/deps.sh build test bench
deps-check:
	@scripts/deps.sh build test check

clean:
	@rm -rf build
