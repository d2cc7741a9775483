# Source tarball and Debian packages. Included by the Makefile at the top; all paths are from there.

include version.mk

DIST := target/dist
DEB := target/deb
RELEASE := pve-tunnel-$(VERSION)
# Vendors crates for some platforms only: without it, more than half of the tarball were Windows. And without the manifests
# as their authors wrote them: cargo reads what is beside them, and debhelper takes *.orig for leftovers.
FILTERER := cargo-vendor-filterer
FILTERER_VERSION := 0.5.18
PLATFORMS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu

.PHONY: dist deb deb-check copyright

dist: setup $(DIST)/bin/$(FILTERER) ## the source of the last commit with all crates: a tarball that builds offline
	rm -rf $(DIST)/$(RELEASE)*
	git archive --prefix=$(RELEASE)/ HEAD | tar -x -C $(DIST)
	cd $(DIST)/$(RELEASE) && ../bin/$(FILTERER) --versioned-dirs $(addprefix --platform=,$(PLATFORMS)) \
	    --exclude-crate-path='*#Cargo.toml.orig' vendor
	install -D -m 0644 debian/vendor.toml $(DIST)/$(RELEASE)/.cargo/config.toml
	XZ_OPT=-T0 tar -cJf $(DIST)/$(RELEASE).tar.xz -C $(DIST) --sort=name --owner=0 --group=0 --numeric-owner \
	    --mode=u=rwX,go=rX --mtime=@$$(git log -1 --format=%ct) $(RELEASE)
	rm -r $(DIST)/$(RELEASE)
	@echo $(DIST)/$(RELEASE).tar.xz

$(DIST)/bin/$(FILTERER):
	$(CARGO) install -q --locked $(FILTERER)@$(FILTERER_VERSION) --root $(DIST)

deb: dist ## the Debian packages, into target/deb (DEB_BUILD_OPTIONS=nocheck leaves the suites out)
	@$(SETUP) --packages
	rm -rf $(DEB)
	mkdir -p $(DEB)
	tar -xJf $(DIST)/$(RELEASE).tar.xz -C $(DEB)
	cd $(DEB)/$(RELEASE) && dpkg-buildpackage --build=binary --no-sign
	rm -r $(DEB)/$(RELEASE)
	@ls $(DEB)/*.deb

deb-check: dist ## builds, installs, tries and removes the packages in clean Debian 12 and 13 (as root; SUITE=, QUICK=1)
	@$(SETUP) --packages
	debian/check $(foreach suite,$(SUITE),--suite $(suite)) $(if $(QUICK),--quick)

copyright: setup ## writes debian/copyright anew
	debian/copyright.pl >debian/copyright.new
	mv debian/copyright.new debian/copyright
