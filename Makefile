# `make help` lists what there is.
.PHONY: help build deps test check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: deps ## the release executable
	cargo build --release

deps:
	@scripts/install-deps build test

test: deps ## every test that this machine can run
	@scripts/test

check: deps ## formatting, lints, the size of files
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@scripts/check-size

clean: ## removes what was built
	cargo clean
