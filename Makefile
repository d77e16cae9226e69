# What one types here. Everything that cargo does better is left to cargo.

BUILD_PACKAGES = ca-certificates curl gcc libc6-dev libcap-ng-dev libseccomp-dev make pkg-config
RUN_PACKAGES = mmdebstrap
# The clients and the peers of the tests: stratus is judged beside them. QEMU emulates a machine that has virtualization.
TEST_PACKAGES = attr busybox-static bzip2 containerd crun db5.3-util docker-cli~ docker-compose~ docker-registry docker.io e2fsprogs erofs-utils git iproute2 jq nftables \
	openssh-client openssh-server openssl podman procps qemu-system-x86 qemu-utils rpm runc skopeo sqlite3 strace util-linux xfsprogs xz-utils zstd
# A peer of the bench alone.
BENCH_PACKAGES = buildah
# An emulated machine, and what its disk is made with.
SERVER_PACKAGES = debian-archive-keyring e2fsprogs mmdebstrap qemu-system-x86 util-linux

# rustup puts its programs there, and a shell that was started before does not know.
export PATH := $(HOME)/.cargo/bin:$(PATH)
# A checkout that is made anew each time finds what was built before.
ifneq ($(CI),)
export CARGO_TARGET_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stratus/target
# What is built once needs no notes on how to build a part of it again, which are more than what is built.
export CARGO_INCREMENTAL := 0
endif
# The demo's directories in /var/lib and /run, and the build that it is of: the tests have one of their own, of what they built.
DEMO = stratus-demo
PROFILE = release
export PREFIX DESTDIR DEMO PROFILE

.PHONY: help
help:
	@echo 'make run           twenty copies of a small web service, and how fast they were'
	@echo 'make stop          takes them down, and the daemon'
	@echo 'make test          every check and every test (as root)'
	@echo 'make differential  the same docker commands through dockerd, stratus and its microVMs (as root; a part of make test)'
	@echo 'make server        the core of the end-to-end tests on a stock Debian with systemd, in QEMU (as root)'
	@echo 'make fuzz          has libFuzzer look for input that breaks a reader'
	@echo 'make bench         measures against peers, and writes docs/benchmarks.md'
	@echo 'make install       builds and installs it, with its units for systemd (PREFIX=/usr/local, DESTDIR=)'

# What takes root says so before it asks for anything else.
.PHONY: root
root:
	@[ "$$(id -u)" -eq 0 ] || { echo 'This takes root. Try again with: sudo make $(MAKECMDGOALS)' >&2; exit 1; }

.PHONY: run
run: root toolchain
	@contrib/require.sh $(RUN_PACKAGES)
	cargo build -p stratus --profile $(PROFILE)
	cargo xtask demo

.PHONY: stop
stop:
	cargo xtask demo --stop

.PHONY: sdks
sdks:
	@tests/sdks/prepare.sh "$${XDG_CACHE_HOME:-$$HOME/.cache}/stratus/sdks"

.PHONY: test
test: toolchain sdks
	@contrib/require-rust.sh fmt clippy
	@contrib/require.sh $(RUN_PACKAGES) $(TEST_PACKAGES) $(SERVER_PACKAGES)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask floors
	cargo xtask licences
# It asks a database on the network about known holes, which not every machine reaches: for those who installed it.
	if cargo deny --version >/dev/null 2>&1; then cargo deny check; fi
# The tests in tests/ start it as a user does.
	cargo build -p stratus
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace --no-fail-fast && cargo test --workspace --doc; \
	else \
		cargo test --workspace --no-fail-fast; \
	fi
	cd examples/hello-web && cargo clippy --all-targets -- -D warnings && cargo test
# The last ones keep a processor busy each.
	$(MAKE) --no-print-directory --jobs=2 --output-sync=line beside-others on-our-own-hypervisor

.PHONY: beside-others
beside-others:
	cargo xtask differential
	cargo xtask differential --microvms
	cargo xtask machines

.PHONY: on-our-own-hypervisor
on-our-own-hypervisor:
	cargo xtask nested

.PHONY: differential
differential: toolchain
	@contrib/require.sh $(RUN_PACKAGES) $(TEST_PACKAGES)
	cargo build -p stratus
	cargo xtask differential
	cargo xtask differential --microvms

# With no TARGET every reader gets its turn, of FUZZ_SECONDS each. What is found is in fuzz/artifacts.
.PHONY: fuzz
fuzz: toolchain
	@contrib/require.sh g++
	@cargo fuzz --version >/dev/null || { echo 'Install it first: cargo install --locked cargo-fuzz' >&2; exit 1; }
	for target in $(or $(TARGET),$(basename $(notdir $(wildcard fuzz/targets/*.rs)))); do \
		mkdir -p fuzz/corpus/$$target && \
		cargo fuzz run --dev --sanitizer none --features libfuzzer $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(or $(FUZZ_SECONDS),60) -max_len=65536 || exit 1; \
	done

.PHONY: server
server: toolchain
	@contrib/require.sh $(RUN_PACKAGES) $(TEST_PACKAGES) $(SERVER_PACKAGES)
	cargo xtask server

# A package's files go below DESTDIR, which may be anybody's.
.PHONY: install
install: $(if $(DESTDIR),,root) toolchain
	cargo build --release
	contrib/install.sh "$${CARGO_TARGET_DIR:-target}/release/stratus"

.PHONY: bench
bench: toolchain
	@contrib/require.sh $(RUN_PACKAGES) $(TEST_PACKAGES) $(BENCH_PACKAGES)
	cargo build --release
	cargo build --release -p vmm --example vmm
	cargo xtask bench

.PHONY: toolchain
toolchain:
	@contrib/require.sh $(BUILD_PACKAGES)
	@contrib/require-rust.sh
