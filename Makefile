# The face of the build. Each target does all its own set-up on a fresh Debian 12 (scripts/deps.sh); the work is CMake's.
.PHONY: build demo test check bench layers install docs deps-build deps-test deps-check clean
PREFIX ?= /usr/local

build: deps-build
	@cmake --preset release >/dev/null
	@cmake --build --preset release

# A private chat on this machine, in under ten seconds after the build.
demo: deps-build
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target sotto-cli
	@build/bin/sotto demo

test: deps-build deps-test build
	@scripts/test.py build

check: deps-build deps-test deps-check
	@scripts/check.sh

bench: build
	@scripts/bench.sh

layers:
	@scripts/layers.py

install: build
	@cmake --install build --prefix $(PREFIX)

# docs/commands.md comes from the program's own tables.
docs: build
	@build/bin/sotto help --format markdown >docs/commands.md

deps-build:
	@scripts/deps.sh build
deps-test:
	@scripts/deps.sh build test
deps-check:
	@scripts/deps.sh build test check

clean:
	@rm -rf build
