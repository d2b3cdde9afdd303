# make help tells the targets. Everything is built by cargo; this file only names what is done together.
PREFIX ?= /usr/local
CARGO ?= cargo
export RUST_TEST_THREADS ?= 2
# Where zsh looks for functions: below PREFIX, Debian's own packages have them in share/zsh/vendor-completions.
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
TARGET = $$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
BINARY = $(TARGET)/$$(scripts/target)/release/corten
SHARE = $(TARGET)/share

.PHONY: help build man demo test guard fuzz faults attack engines test-vm validation check deny install uninstall deb test-deb bench clean peers
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
build: ## the release binary, one static executable
	@scripts/install-deps build
	CORTEN_COMMIT=$$(git describe --always --exclude '*' --abbrev=40 --dirty 2>/dev/null) $(CARGO) build --release --target $$(scripts/target)
	@case "$$(scripts/target)" in x86_64-*-musl) scripts/check-entry $(BINARY) ;; esac
man: ## man pages and completions of bash, zsh and fish, under target/share
	@scripts/install-deps build
	cargo run --quiet --example pages -- "$(SHARE)" "$$(scripts/date)"
demo: build ## run a shell in a container made of busybox
	@scripts/install-deps test
	@scripts/demo $(BINARY)
test: ## unit and integration tests; installs what they need; the last line counts them
	@scripts/install-deps build test
	@scripts/test
faults: ## every system call of every verb failing, or the runtime killed there: all of them; RUNTIME=...: another's, where it can
	@scripts/install-deps build test
	@rm -f "$(TARGET)/faults.table"
	@[ -z "$(RUNTIME)" ] || export CORTEN="$(RUNTIME)"; \
	CORTEN_FAULTS=$${CORTEN_FAULTS:-all} CORTEN_FAULTS_TABLE="$(TARGET)/faults.table" CORTEN_TEST_PATIENCE=15 \
		scripts/test --test faults $(if $(RUNTIME),-- --skip gc --skip update --skip v1 --skip systemd --skip notice); \
		status=$$?; cat "$(TARGET)/faults.table"; exit $$status
fuzz: ## fuzz/ by libFuzzer: all targets or TARGET=..., SECONDS=60 each; `make test` has a second of its own of each
	@scripts/install-deps build fuzz
	@CORTEN_FUZZ_SECONDS=$(or $(SECONDS),60) scripts/fuzz $(if $(filter command line,$(origin TARGET)),$(TARGET))
attack: ## the tests by attack (they are in `make test` too), with 2,000 rounds of each race
	@scripts/install-deps build test
	@CORTEN_ATTACK_ROUNDS=$(or $(ROUNDS),2000) CORTEN_TEST_PATIENCE=15 scripts/test --test attack
ENGINES ?= $(notdir $(wildcard $(addprefix tests/engines/,podman podman-rootless buildah containerd cri docker)))
engines: $(if $(RUNTIME),,build) ## ENGINES with corten or RUNTIME=...; SUITE=trixie: newer ones; the last line counts the checks
	@SUITE=$(SUITE) tests/engines/all "$(or $(RUNTIME),$(BINARY))" $(ENGINES)
engine-%: $(if $(RUNTIME),,build)
	@SUITE=$(SUITE) tests/engines/all "$(or $(RUNTIME),$(BINARY))" $*
validation: $(if $(RUNTIME),,build) ## runtime-tools' validation programs with corten or RUNTIME=...; the last line counts them
	@tests/oci-validation/run $(or $(RUNTIME),$(BINARY))
test-vm: build ## the same in a VM with systemd, cgroup v2 and AppArmor; KERNEL=sid: on sid's kernel
	@scripts/install-deps vm
	@scripts/test-vm
guard: build ## bytes, pages and instructions of the release beside tests/guard.json; the last line counts
	@scripts/install-deps build guard
	@scripts/guard $(BINARY) $(if $(UPDATE),--update)
check: ## formatting, lints, file sizes, no unsafe outside src/sys and src/startup, the specification's clauses and their tests
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cd benches/floor && cargo fmt --check && { [ "$$(uname -m)" != x86_64 ] || cargo clippy --quiet -- -D warnings; }
	@scripts/check-source
	@scripts/check-coverage
deny: ## the dependencies' licences, versions, sources and known defects by cargo-deny, which it builds first (10 minutes)
	@scripts/install-deps build
	@PATH="$(TARGET)/tools/bin:$$PATH"; command -v cargo-deny >/dev/null || cargo install --quiet --locked --root "$(TARGET)/tools" cargo-deny; \
		cargo deny --locked check $(or $(DENY),licenses bans sources advisories)
# BINARY=... and SHARE=... on the command line: what is installed has been made before.
install: $(if $(filter file,$(origin BINARY)),build) $(if $(filter file,$(origin SHARE)),man) ## binary, man pages and completions below DESTDIR and PREFIX (/usr/local)
	install -D -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/corten"
	install -d "$(DESTDIR)$(PREFIX)/share/man/man8"
	install -m 644 "$(SHARE)"/man/man8/corten*.8 "$(DESTDIR)$(PREFIX)/share/man/man8"
	install -D -m 644 "$(SHARE)/bash-completion/completions/corten" "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/corten"
	install -D -m 644 "$(SHARE)/zsh/site-functions/_corten" "$(DESTDIR)$(ZSHDIR)/_corten"
	install -D -m 644 "$(SHARE)/fish/vendor_completions.d/corten.fish" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/corten.fish"
uninstall: ## what install has put there
	rm -f "$(DESTDIR)$(PREFIX)/bin/corten" "$(DESTDIR)$(PREFIX)"/share/man/man8/corten.8 "$(DESTDIR)$(PREFIX)"/share/man/man8/corten-*.8 \
		"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/corten" "$(DESTDIR)$(ZSHDIR)/_corten" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/corten.fish"
deb: build man ## target/corten_VERSION_ARCH.deb, a Debian package
	@scripts/deb "$(BINARY)" "$(SHARE)" "$$(scripts/target)" "$(TARGET)"
test-deb: build man ## makes it, looks into it, installs it into an empty directory, runs it; lintian
	@scripts/install-deps deb
	@scripts/test-deb "$$(scripts/deb "$(BINARY)" "$(SHARE)" "$$(scripts/target)" "$(TARGET)")" "$(BINARY)" "$(SHARE)" "$$(scripts/target)"
peers: ## crun and runc of Debian sid under target/peers, to compare with
	@scripts/peers
bench: build peers ## corten beside crun, runc, RUNTIMES and the floor, into target/bench; ROUNDS=60, ONLY=spec,rss,...
	@scripts/install-deps bench
	@python3 benches/bench --rounds $(or $(ROUNDS),60) --only "$(ONLY)" "$(BINARY)" target/peers/crun target/peers/runc $(RUNTIMES)
clean: ## everything that was built or fetched
	cargo clean
