# pve-tunnel: everything that can be done here, each by one word. `make help` lists them.

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
# How the Perl module is built: to be used in place, unless somebody else says it (debian/rules).
PERL_FLAGS ?= RPATH=$(CURDIR)/target/release AUTHOR=1
BENCH := $(CARGO) run --release -q -p bench --
comma := ,
# Tests that expect certain ports need a network namespace; without one, all tests run one at a time.
PROVE_JOBS ?= $(shell if unshare --net true 2>/dev/null; then echo $$(($$(nproc) + 1)); else echo 1; fi)
# The PVE modules that tests run against, if there are any, come from PERL5LIB.
PROVE = prove -j$(PROVE_JOBS) $(addprefix -I$(CURDIR)/,$(BLIB)) -It/lib -Itestnode/lib

.PHONY: help setup build library perl testnode demo test test-rust test-perl
.PHONY: install install-command install-perl bench bench-peers bench-report lint header instructions clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## what is missing from Debian: installs it as root, or says how
	@$(SETUP)

build: library testnode perl ## everything that is built

# Each package by itself: cargo would otherwise build the library with the test node's features. The command has none of
# its own, so that the second of these builds takes the library of the first.
library: setup
	$(CARGO) build --release -p pve-tunnel
	$(CARGO) build --release -p pve-tunnel-cli
	ln -sf $(notdir $(LIBRARY)) $(SONAME)

testnode: setup
	$(CARGO) build --release -p testnode

perl: library
	cd perl && perl Makefile.PL $(PERL_FLAGS) >/dev/null
	$(MAKE) -C perl --silent

demo: build ## two nodes, a real guest, every plane (RAM= DISK= OFFLINE= in MiB, PLANES=)
	demo/demo $(foreach name,RAM DISK OFFLINE PLANES PLANE,$(if $($(name)),$(name)=$($(name))))

# In this order: the Perl suite runs what the first two have built, and with the library as it ships.
test: test-rust test-c test-perl ## every suite

test-rust: setup
	$(CARGO) test --release --no-fail-fast -p pve-tunnel-cli
	$(CARGO) test --release --no-fail-fast -p pve-tunnel
	$(CARGO) test --release --no-fail-fast -p testnode

test-perl: build manual
	$(PROVE) t

include tests/c/Makefile
include docs/man/Makefile
include debian/packages.mk

manual-pages manual-command: setup

install: install-c install-command install-manual install-perl ## what was built (DESTDIR=, PREFIX=/usr/local)

install-command:
	install -D -m 0755 target/release/pve-tunnel $(DESTDIR)$(PREFIX)/bin/pve-tunnel
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/pve-tunnel/perl5/PVE perl/stand-in/PVE/*.pm

install-perl:
	$(MAKE) -C perl --silent install DESTDIR=$(DESTDIR)

bench: build bench-peers ## ours against its peers (CASE= for some of it, QUICK=1 only tries it)
	$(BENCH) $(if $(QUICK),--quick) $(subst $(comma), ,$(CASE))

bench-report: setup ## writes anew what is made of bench/results.json: picture, tables
	$(BENCH) --report

# Not --locked: what it locks does not compile any more. A compiler as old as ours gets what it can.
bench-peers: setup ## what the benchmarks compare with
	@$(SETUP) --bench
	CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback \
		$(CARGO) install websocat@1.14.0 --root target/bench

lint: build ## layout and lints of Rust and Perl, freshness of header and figures, POD
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release -q -p pve-tunnel --test header
	$(BENCH) --check
	debian/versions
	debian/copyright.pl | diff -u debian/copyright -
	$(PROVE) t/00-pod.t t/01-tidy.t
	podchecker -warnings -warnings perl/lib/PVE/Tunnel/*.pm docs/man/*.pod

header: setup ## writes include/pve_tunnel.h anew
	UPDATE_HEADER=1 $(CARGO) test --release -q -p pve-tunnel --test header

instructions: setup ## writes bench/instructions.json anew
	UPDATE_INSTRUCTIONS=1 $(CARGO) test --release -q -p pve-tunnel --test instructions

clean: ## removes what was built
	$(CARGO) clean
	[ ! -e perl/Makefile ] || $(MAKE) -C perl realclean
