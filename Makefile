# Targets to build, test and install pve-tunnel. `make help` lists them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CARGO ?= cargo
SETUP ?= ./setup
export CARGO_TERM_COLOR ?= auto

LIBRARY := target/release/libpve_tunnel.so
SONAME := $(LIBRARY).0
BLIB := perl/blib/lib perl/blib/arch
# Options for the build of the Perl module. By default it can be used in this tree; debian/rules sets others.
PERL_FLAGS ?= RPATH=$(CURDIR)/target/release AUTHOR=1
BENCH := $(CARGO) run --release -q -p bench --
BENCH_REPORT := $(CARGO) run --release -q -p bench-report --
comma := ,
# Tests that expect certain ports need a network namespace; without one, all tests run one at a time.
PROVE_JOBS ?= $(shell if unshare --net true 2>/dev/null; then echo $$(($$(nproc) + 1)); else echo 1; fi)
# POD and style, which `make lint` checks.
PERL_LINTS = t/00-pod.t t/01-tidy.t
# The faults wait for time limits. They come first, so that none of them is left alone at the end.
PERL_TESTS = $(wildcard t/[78]*.t) $(filter-out $(PERL_LINTS),$(wildcard t/[!78]*.t))
# Tests that require modules of Proxmox VE find them by PERL5LIB.
PROVE = prove -j$(PROVE_JOBS) $(addprefix -I$(CURDIR)/,$(BLIB)) -It/lib -Itestnode/lib

.PHONY: help setup build library perl testnode demo check fuzz sanitize test test-rust test-perl
.PHONY: announce-demo announce-test
.PHONY: install install-command install-perl bench bench-peers bench-report lint header instructions clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install missing packages; not as root: print commands
	@$(SETUP)

build: library testnode perl ## build library, command, test node and Perl module

# One cargo call for each package. A common call would build the library with the features of the test node. The command
# requires no other features, so its build uses the library of the first call.
library: setup
	$(CARGO) build --release -p pve-tunnel
	$(CARGO) build --release -p pve-tunnel-cli
	ln -sf $(notdir $(LIBRARY)) $(SONAME)

testnode: setup
	$(CARGO) build --release -p testnode

perl: library
	cd perl && perl Makefile.PL $(PERL_FLAGS) >/dev/null
	$(MAKE) -C perl --silent

demo: announce-demo build ## move a guest on each plane (RAM=, DISK=, PLANES=, LINK=)
	$(if $(LINK),$(CARGO) build --release -p testing)
	demo/demo $(foreach name,RAM DISK OFFLINE PLANES PLANE LINK CHANNELS MIRROR,$(if $($(name)),$(name)=$($(name))))

# For a first run on two cores.
announce-demo:
	@echo 'demo: downloads crates, builds for about 5 minutes, then migrates for 1 minute'
	@echo 'demo: needs 1 GiB in target/ and 2 GiB in $(or $(TMPDIR),/tmp) for the default sizes'

announce-test:
	@echo 'test: downloads crates, and takes about 15 minutes; needs 3 GiB in target/'

# The order is important: the Perl tests use the programs that the first two build, and the library as released.
test: announce-test test-rust test-c test-perl ## run all tests

# With a profile that compiles quickly, so that it takes less than a minute after a small change.
check: setup ## run the quick checks: formats, lints, a few tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy -q --profile quick -p pve-tunnel -p pve-tunnel-cli --all-targets -- -D warnings
	$(CARGO) test -q --profile quick -p pve-tunnel --lib --test decisions --test websocket --test floors --test header
	$(CARGO) build -q --profile quick -p pve-tunnel-cli -p testnode
	CARGO_PROFILE=quick prove -It/lib -Itestnode/lib -Iperl/lib t/40-connector.t

fuzz: ## run the fuzz targets (SECONDS= for each, TARGET= one)
	fuzz/run $(or $(SECONDS),60) $(TARGET)

sanitize: ## run library, relay and C tests with AddressSanitizer
	fuzz/sanitize

test-rust: setup
	$(CARGO) test --release --no-fail-fast -p pve-tunnel-cli
	$(CARGO) test --release --no-fail-fast -p pve-tunnel
	$(CARGO) test --release --no-fail-fast -p testnode
	$(CARGO) test --release --no-fail-fast -p testing
	$(CARGO) test --release --no-fail-fast -p bench-report

# A test uses the emulated link.
test-perl: build manual
	$(CARGO) build --release -p testing
	$(PROVE) $(PERL_TESTS)

include tests/c/Makefile
include docs/man/Makefile
include debian/packages.mk

manual-pages manual-command: setup

install: install-c install-command install-manual install-perl ## install the build (DESTDIR=, PREFIX=/usr/local)

install-command:
	install -D -m 0755 target/release/pve-tunnel $(DESTDIR)$(PREFIX)/bin/pve-tunnel
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/pve-tunnel/perl5/PVE perl/diverted/PVE/*.pm

install-perl:
	$(MAKE) -C perl --silent install DESTDIR=$(DESTDIR)

bench: build bench-peers ## run the benchmarks (CASE= selects, QUICK=1: short runs)
	$(BENCH) $(if $(QUICK),--quick) $(subst $(comma), ,$(CASE))

bench-report: setup ## update pictures and tables from bench/results.json
	$(BENCH_REPORT)

# websocat is not --locked: the locked versions do not compile any more. Cargo selects versions that our compiler
# supports. The compiler that this project requires is too old for aggligator. That only skips its case.
bench-peers: setup ## install the programs that the benchmarks compare with
	@$(SETUP) --bench
	CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback \
		$(CARGO) install websocat@1.14.0 --root target/bench
	$(CARGO) install --path bench/peers/aggligator --locked --root target/bench --target-dir target/bench/build || \
		echo 'bench-peers: aggligator-peer is not built (it requires Rust 1.89), so the case aggregation is skipped'

lint: build ## check formats, lints, POD, and all generated files
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path bench/peers/aggligator/Cargo.toml --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release -q -p pve-tunnel --test header
	$(BENCH_REPORT) --check
	debian/versions
	debian/copyright.pl | diff -u debian/copyright -
	$(PROVE) $(PERL_LINTS)
	podchecker -warnings -warnings perl/lib/PVE/Tunnel/*.pm docs/man/*.pod

header: setup ## update include/pve_tunnel.h
	UPDATE_HEADER=1 $(CARGO) test --release -q -p pve-tunnel --test header

instructions: setup ## update bench/instructions.json
	UPDATE_INSTRUCTIONS=1 $(CARGO) test --release -q -p pve-tunnel --test instructions

clean: ## remove the build
	$(CARGO) clean
	[ ! -e perl/Makefile ] || $(MAKE) -C perl realclean
