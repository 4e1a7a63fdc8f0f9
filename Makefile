# The face of the build. Every target does all its own set-up on a fresh Debian 12.
.PHONY: build deps
build: deps
	@cmake --preset release >/dev/null
	@cmake --build --preset release
deps:
	@scripts/deps.sh
