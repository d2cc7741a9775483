# Source tarball and Debian packages. The top Makefile includes this file; all paths are relative to it.

include version.mk

DIST := target/dist
DEB := target/deb
RELEASE := pve-tunnel-$(VERSION)
# Not empty if the build of the packages runs the tests.
DEB_TESTS := $(if $(filter nocheck,$(DEB_BUILD_OPTIONS)),,1)

.PHONY: dist deb repo deb-check copyright

dist: setup ## create the source tarball, with all crates
	rm -rf $(DIST)/$(RELEASE)*
	mkdir -p $(DIST)
	git archive --prefix=$(RELEASE)/ HEAD | tar -x -C $(DIST)
	cd $(DIST)/$(RELEASE) && $(CARGO) vendor --quiet --locked --versioned-dirs vendor >/dev/null
	# Half of the bytes are crates for Windows. Cargo reads their manifests only, and requires a source file.
	cd $(DIST)/$(RELEASE)/vendor && for crate in windows*; do \
	    rm -rf $$crate/src $$crate/lib; install -D -m 0644 /dev/null $$crate/src/lib.rs; done
	# Cargo does not read these files, which some versions of it copy, and debhelper would remove them as leftovers of
	# patch.
	cd $(DIST)/$(RELEASE)/vendor && rm -f */Cargo.toml.orig && \
	    sed -i 's/"Cargo.toml.orig":"[0-9a-f]*",\?//' */.cargo-checksum.json
	install -D -m 0644 debian/vendor.toml $(DIST)/$(RELEASE)/.cargo/config.toml
	XZ_OPT='-T0 $(if $(QUICK),-1)' tar -cJf $(DIST)/$(RELEASE).tar.xz -C $(DIST) --sort=name \
	    --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@$$(git log -1 --format=%ct) $(RELEASE)
	rm -r $(DIST)/$(RELEASE)
	@echo $(DIST)/$(RELEASE).tar.xz

# A missing build dependency is reported before the crates are downloaded.
deb: ## build packages (DEB_BUILD_OPTIONS=nocheck: no tests)
	@echo 'deb: downloads crates, and takes about $(if $(DEB_TESTS),20,5) minutes on two cores'
	@echo 'deb: needs $(if $(DEB_TESTS),3 GiB,1 GiB) in target/'
	@$(SETUP) --packages
	dpkg-checkbuilddeps
	$(MAKE) dist
	rm -rf $(DEB)
	mkdir -p $(DEB)
	tar -xJf $(DIST)/$(RELEASE).tar.xz -C $(DEB)
	cd $(DEB)/$(RELEASE) && debian/release-version && dpkg-buildpackage --build=binary --no-sign
	rm -r $(DEB)/$(RELEASE)
	@ls $(DEB)/*.deb

# Packages of the other release: copied from a machine with it, or built and kept by `make deb-check`. By default, the
# folders that exist; if there is none, the first one is named.
repo: ## create an apt repository (KEY= signs it, PACKAGES=)
	@debian/repository $(if $(KEY),--key '$(KEY)') target/repo \
	    $(or $(PACKAGES),$(wildcard $(DEB) target/packages/bookworm target/packages/trixie),$(DEB))

deb-check: dist $(if $(QUICK),testnode) ## test packages in clean systems, as root (SUITE= QUICK=1)
	@$(SETUP) --packages
	debian/check $(foreach suite,$(SUITE),--suite $(suite)) $(if $(QUICK),--quick)

copyright: setup ## update debian/copyright
	debian/copyright.pl >debian/copyright.new
	mv debian/copyright.new debian/copyright
