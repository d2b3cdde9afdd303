# `make help` lists the targets. cargo builds everything; this file names the steps that belong together.
PREFIX ?= /usr/local
CARGO ?= cargo
export RUST_TEST_THREADS ?= 2
# The directory that zsh reads functions from. (Debian's own packages use share/zsh/vendor-completions.)
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
OUT = $$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
BINARY = $(OUT)/$$(scripts/target)/release/corten
SHARE = $(OUT)/share

.PHONY: help build man demo test guard fuzz faults attack engines test-vm validation check deny install uninstall deb test-deb reproduce release test-release test-kubernetes bench bench-engines clean peers
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
build: ## build the release, one static executable; TARGET=aarch64-unknown-linux-musl builds it for that target
	@scripts/install-deps build
	CORTEN_COMMIT=$${CORTEN_COMMIT-$$(scripts/commit)} \
		$(CARGO) build --release --config "$$(scripts/remap)" --target $$(scripts/target)
	@case "$$(scripts/target)" in x86_64-*-musl | aarch64-*-musl) scripts/check-entry "$(BINARY)" ;; esac
man: ## write the man pages and the completions of bash, zsh and fish to target/share
	@scripts/install-deps build
	cargo run --quiet --example pages -- "$(SHARE)" "$$(scripts/date)"
demo: build ## show a container made of busybox
	@scripts/install-deps test
	@scripts/demo "$(BINARY)"
test: ## run all unit and integration tests, after installing the packages that they need
	@scripts/install-deps build test
	@scripts/test
faults: ## run every fault injection: each system call of each verb fails, or the runtime is killed there; RUNTIME=/path tests another runtime
	@scripts/install-deps build test
	@rm -f "$(OUT)/faults.table"
	@[ -z "$(RUNTIME)" ] || export CORTEN="$(RUNTIME)"; \
	CORTEN_FAULTS=$${CORTEN_FAULTS:-all} CORTEN_FAULTS_TABLE="$(OUT)/faults.table" CORTEN_TEST_PATIENCE=15 \
		scripts/test --test faults $(if $(RUNTIME),-- --skip gc --skip update --skip v1 --skip systemd --skip notice); \
		status=$$?; cat "$(OUT)/faults.table"; exit $$status
fuzz: ## fuzz all targets, or TARGET=name, with libFuzzer for SECONDS=60 each
	@TARGET= scripts/install-deps build fuzz
	@CORTEN_FUZZ_SECONDS=$(or $(SECONDS),60) scripts/fuzz $(if $(filter command line,$(origin TARGET)),$(TARGET))
attack: ## run the tests by attack (part of `make test` too) with ROUNDS=2000 of each race
	@scripts/install-deps build test
	@CORTEN_ATTACK_ROUNDS=$(or $(ROUNDS),2000) CORTEN_TEST_PATIENCE=15 scripts/test --test attack
ENGINES ?= $(notdir $(wildcard $(addprefix tests/engines/,podman podman-rootless buildah containerd cri docker)))
engines: $(if $(RUNTIME),,build) ## check ENGINES with corten, or with RUNTIME=/path; SUITE=trixie or sid takes that Debian's engines
	@SUITE=$(SUITE) tests/engines/all "$(or $(RUNTIME),$(BINARY))" $(ENGINES)
engine-%: $(if $(RUNTIME),,build)
	@SUITE=$(SUITE) tests/engines/all "$(or $(RUNTIME),$(BINARY))" $*
validation: $(if $(RUNTIME),,build) ## run the validation programs of runtime-tools with corten, or with RUNTIME=/path
	@tests/oci-validation/run "$(or $(RUNTIME),$(BINARY))"
test-vm: build ## run the tests in a VM with systemd, cgroup v2 and AppArmor; KERNEL=bookworm boots Debian 12, KERNEL=sid the kernel of sid, ARCH=aarch64 or riscv64 another architecture; TESTS="limits:: ..."
	@scripts/install-deps vm
	@scripts/test-vm $(TESTS)
guard: build ## compare bytes, pages and instructions of the release with tests/guard.json; UPDATE=1 writes that file
	@scripts/install-deps build guard
	@scripts/guard "$(BINARY)" $(if $(UPDATE),--update)
check: ## check formatting, lints, file sizes, uses of unsafe, import circles, and the tests of each clause of the specification
	@scripts/install-deps build check
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cd benches/floor && cargo fmt --check && { [ "$$(uname -m)" != x86_64 ] || cargo clippy --quiet -- -D warnings; }
	@scripts/check-source
	@scripts/circles
	@scripts/check-coverage
deny: ## check licences, versions, sources and known defects of the dependencies; builds cargo-deny first (10 minutes)
	@scripts/install-deps build
	@PATH="$(OUT)/tools/bin:$$PATH"; command -v cargo-deny >/dev/null || cargo install --quiet --locked --root "$(OUT)/tools" cargo-deny; \
		cargo deny --locked check $(or $(DENY),licenses bans sources advisories)
# BINARY=... and SHARE=... on the command line name files that exist already. Then nothing is built.
install: $(if $(filter file,$(origin BINARY)),build) $(if $(filter file,$(origin SHARE)),man) ## install the binary, man pages, completions and samples below DESTDIR and PREFIX (/usr/local)
	install -D -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/corten"
	install -d "$(DESTDIR)$(PREFIX)/share/man/man8"
	install -m 644 "$(SHARE)"/man/man8/corten*.8 "$(DESTDIR)$(PREFIX)/share/man/man8"
	install -D -m 644 "$(SHARE)/bash-completion/completions/corten" "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/corten"
	install -D -m 644 "$(SHARE)/zsh/site-functions/_corten" "$(DESTDIR)$(ZSHDIR)/_corten"
	install -D -m 644 "$(SHARE)/fish/vendor_completions.d/corten.fish" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/corten.fish"
	find packaging/samples -type f -printf '%P\n' | while read -r file; do \
		sed 's,@BINDIR@,$(PREFIX)/bin,' "packaging/samples/$$file" | install -D -m 644 /dev/stdin "$(DESTDIR)$(PREFIX)/share/doc/corten/samples/$$file" || exit 1; done
uninstall: ## remove the files of `make install`
	rm -f "$(DESTDIR)$(PREFIX)/bin/corten" "$(DESTDIR)$(PREFIX)"/share/man/man8/corten.8 "$(DESTDIR)$(PREFIX)"/share/man/man8/corten-*.8 \
		"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/corten" "$(DESTDIR)$(ZSHDIR)/_corten" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/corten.fish"
	rm -rf "$(DESTDIR)$(PREFIX)/share/doc/corten/samples"
deb: build man ## build a Debian package, target/corten_VERSION_ARCH.deb
	@scripts/deb "$(BINARY)" "$(SHARE)" "$$(scripts/target)" "$(OUT)"
test-deb: build man ## build the Debian package, check it with lintian, install it into an empty directory and run it
	@scripts/install-deps deb
	@package=$$(scripts/deb "$(BINARY)" "$(SHARE)" "$$(scripts/target)" "$(OUT)") && \
		scripts/test-deb "$$package" "$(BINARY)" "$(SHARE)" "$$(scripts/target)"
reproduce: build ## build the release once more, with other directories, and compare the bytes (a few minutes)
	@scripts/reproduce "$(BINARY)" "$$(scripts/target)"
ARCHITECTURES ?= x86_64 aarch64 riscv64
release: man ## make the tarballs, packages and checksums of a release in target/dist, for those ARCHITECTURES that build here; RELEASE_KEY=KEY signs
	@scripts/install-deps deb $(if $(RELEASE_KEY),sign)
	@built=; for arch in $(ARCHITECTURES); do target=$$(ARCH=$$arch scripts/target); \
		if $(MAKE) --no-print-directory build TARGET=$$target; then built="$$built $$target"; else echo "release: no $$target, which does not build here" >&2; fi; \
		done; scripts/release "$(OUT)/dist" "$(OUT)" "$(SHARE)" $$built
test-release: release ## check target/dist: checksums, packages of all kinds, a container, and that a second build has the same bytes
	@scripts/install-deps deb release sign
	@scripts/test-release "$(OUT)/dist" "$(OUT)" "$(SHARE)"
test-kubernetes: build man ## check deploy/kubernetes with the containerd of trixie and of sid, on nodes of their own
	@scripts/install-deps deploy
	@tarball=$$(scripts/tarball "$(BINARY)" "$(SHARE)" "$$(scripts/target)" "$(OUT)/release-files") && \
		tests/kubernetes/run "$(BINARY)" "$$tarball"
peers: ## fetch crun and runc of Debian sid into target/peers, to compare corten with them
	@scripts/peers
bench: build peers ## compare corten with crun, runc, RUNTIMES and the floor in target/bench; ROUNDS=60, ONLY=spec,rss,...
	@scripts/install-deps bench
	@python3 benches/bench --rounds $(or $(ROUNDS),60) --only "$(ONLY)" "$(BINARY)" target/peers/crun target/peers/runc $(RUNTIMES)
bench-engines: build peers ## compare the commands of Podman, Docker and containerd with corten, crun and runc; ROUNDS=20
	@benches/engines $(or $(ROUNDS),20) "$(BINARY)" target/peers/crun target/peers/runc $(RUNTIMES)
clean: ## remove everything that was built or fetched
	cargo clean
