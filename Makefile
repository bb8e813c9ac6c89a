# Everything a newcomer types. `make run` and `make test` install what they need (Debian 12, as root).
SHELL      := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# A fresh rustup installation is not on PATH before the next login.
export PATH := $(PATH):$(HOME)/.cargo/bin

BUILD_PACKAGES := ca-certificates clang llvm libelf-dev zlib1g-dev pkg-config make gcc libc6-dev
# A server and two clients of different make for each protocol.
SERVER_PACKAGES := nghttp2-server nghttp2-client caddy python3-h2 python3-httpx python3-grpcio python3-websockets python3-aiohttp \
	golang-go golang-google-grpc-dev golang-goprotobuf-dev rabbitmq-server amqp-tools python3-pika \
	mariadb-server mariadb-client python3-pymysql redis-server redis-tools python3-redis unbound bind9-dnsutils python3-dnspython
# To render deploy/ twice and compare: what Helm is made of, and a kubectl where there is none.
DEPLOY_PACKAGES := golang-go golang-github-masterminds-sprig-dev golang-k8s-sigs-yaml-dev golang-github-xeipuuv-gojsonschema-dev \
	$(if $(shell command -v kubectl),,kubernetes-client)
TEST_PACKAGES  := $(BUILD_PACKAGES) nginx-light wrk postgresql postgresql-contrib openssl curl jq iproute2 iptables procps tcpdump bpftool \
	python3 python3-psycopg2 $(SERVER_PACKAGES) $(DEPLOY_PACKAGES)
LINT_PACKAGES  := $(BUILD_PACKAGES) clang-format
DEB_PACKAGES   := dpkg-dev llvm
# libFuzzer is C++.
FUZZ_PACKAGES  := $(BUILD_PACKAGES) g++
BPF_SOURCES     = $(sort $(wildcard src/bpf/*.c src/bpf/*.h))

.PHONY: btf help build image push run demo test test-kernels test-kubernetes test-containers check-build confusion fuzz fuzz-replay bench lint fmt deps deps-test deps-lint deps-fuzz rust \
	manifests deploy status undeploy check-rbac deb test-deb

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

build: deps rust ## the release binary, target/release/remora
	$(CARGO) build --release

run: build ## remora run; options in ARGS, e.g. make run ARGS='--port 80,5432'
	target/release/remora run $(ARGS)

demo: build deps-test ## remora run beside a small real workload on loopback, removed afterwards
	scripts/demo.sh $(ARGS)

# One build, that of the release: what is tested is what runs, and the dependencies are compiled once. The tests on the kernel come
# late and one by one: the agent sees the whole machine. The last is the matrix of kernels, see test-kernels.
test: deps-test rust ## everything: parsers, hostile bytes, command line, real programs on this kernel, then on seven other kernels
	$(CARGO) test --release --no-run
	$(CARGO) test --release --lib --bins
	$(CARGO) test --release --test architecture --test btf --test cli --test confusion --test deploy --test programs
	$(CARGO) test --release --test hostile -- --test-threads=1
	$(CARGO) test --release --test kernel -- --test-threads=1
	tests/kernels/run.sh -j2 --check

test-kubernetes: deps rust ## a real Kubernetes node, built once (ten minutes): the shop, the watch at scale, the role; some: ONLY=shop
	tests/kubernetes/run.sh $(IMAGE):$(TAG) $(ONLY)

# A minute for each kernel, two at a time. The first time some 200 MB are fetched, and a kernel and an agent for arm64 are built: fifteen
# minutes on two processors.
test-kernels: build ## seven kernels in virtual machines: every family of hooks, both transports, exact counts; some: KERNELS='6.1 6.1-rt'
	tests/kernels/run.sh -j2 $(if $(KERNELS),,--check) $(KERNELS)

check-build: rust ## a second build does nothing, a Rust edit does not run clang, a header edit does
	scripts/check-build.sh

confusion: deps rust ## which connection is named what: docs/protocols/confusion.md; fails when one is named wrongly
	$(CARGO) run --release --example confusion -- --write docs/protocols/confusion.md

# On a stable compiler; every target for FUZZ_SECONDS, or those in TARGETS. docs/proofs.md says more.
FUZZ_SECONDS ?= 600
fuzz: deps-fuzz rust ## coverage-guided inputs for every parser and reader, e.g. make fuzz FUZZ_SECONDS=60 TARGETS='http redis'
	fuzz/run.sh $(FUZZ_SECONDS) $(TARGETS)

fuzz-replay: deps rust ## the inputs that fuzzing kept, without a fuzzer
	$(CARGO) test --release --test hostile -- --test-threads=1 kept

bench: deps-test rust ## the figures of docs/kernels.md; options in ARGS, e.g. make bench ARGS=--quick
	$(CARGO) build --release
	$(CARGO) bench --bench family_cost -- $(ARGS)
	$(CARGO) bench --bench hook_cost -- $(ARGS)
	$(CARGO) bench --bench overhead -- $(ARGS)
	$(CARGO) bench --bench pipeline -- $(ARGS)
	$(CARGO) bench --bench protocols -- $(ARGS)

lint: deps-lint rust ## formats, clippy, arrows between the rooms
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --all-targets -- -D warnings
	clang-format --dry-run --Werror $(BPF_SOURCES)
	$(CARGO) test --test architecture

fmt: deps-lint rust ## formats Rust and C
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml
	clang-format -i $(BPF_SOURCES)

# --- ways to run: docs/deploying.md ------------------------------------------------------------------------------------------------

KUBECTL      ?= kubectl
# What `deploy` applies and `undeploy` deletes: the file, or an overlay, e.g. make deploy OVERLAY=deploy/kubernetes/privileged
OVERLAY      ?=
MANIFEST     ?= deploy/kubernetes/remora.yaml
MANIFEST_BASE = deploy/kubernetes/base
APPLIED       = $(if $(OVERLAY),-k $(OVERLAY),-f $(MANIFEST))

manifests: ## deploy/kubernetes/remora.yaml, joined from the pieces in deploy/kubernetes/base
	@{ echo '# Everything that Remora needs in a cluster: kubectl apply -f remora.yaml. Joined from base/ by `make manifests`; edit there.'; \
	for piece in $$(sed -n 's/^  - //p' $(MANIFEST_BASE)/kustomization.yaml); do echo ---; cat $(MANIFEST_BASE)/$$piece; done; } >$(MANIFEST)

# A checkout of https://github.com/aquasecurity/btfhub-archive, or any directory of that layout; one for each processor's programs.
BTF_ARCHIVE ?= target/btf.tar.xz
BTF_ONLY    ?=
btf: build ## types of kernels without BTF, e.g. make btf BTFHUB=../btfhub-archive BTF_ONLY='ubuntu/18.04 debian/10'; docs/btf.md
	@[[ -n "$(BTFHUB)" ]] || { echo "make: say where the types are: make btf BTFHUB=DIR" >&2; exit 1; }
	$(call install,bpftool xz-utils)
	btfhub/minimise.sh -o "$(BTF_ARCHIVE)" $(foreach name,$(BTF_ONLY),--only "$(name)") "$(BTFHUB)"

deploy: ## into the cluster of the current kubectl context, and wait until every node has its agent
	$(KUBECTL) apply $(APPLIED)
	$(KUBECTL) --namespace remora rollout status daemonset/remora --timeout 5m

status: ## the agents of the current cluster, and their last words
	$(KUBECTL) --namespace remora get daemonset,pods --output wide
	$(KUBECTL) --namespace remora logs daemonset/remora --tail 20

undeploy: ## out of the cluster again; nothing stays
	$(KUBECTL) delete $(APPLIED) --ignore-not-found

check-rbac: ## what a real API server makes of deploy/kubernetes, and what its account may; needs KUBECONFIG, installs and removes
	@command -v jq >/dev/null || { echo "make: jq is missing" >&2; exit 1; }
	KUBECTL=$(KUBECTL) scripts/check-rbac.sh

# Another architecture: make deb DEB_ARCH=arm64 DEB_BINARY=path/of/its/remora
deb: $(if $(DEB_BINARY),,build) ## target/deb/remora_VERSION_ARCH.deb: program, systemd unit, /etc/remora/remora.yaml
	$(call install,$(DEB_PACKAGES))
	scripts/deb.sh $(or $(DEB_BINARY),target/release/remora) $(DEB_ARCH)

test-deb: deb ## lintian, install, run, remove and purge in a Debian of its own
	$(call install,lintian debootstrap systemd)
	scripts/test-deb.sh

# --- packages ----------------------------------------------------------------------------------------------------------------------

# Installs the packages of $(1) that are absent, says which, and does nothing when there are none. Debian starts a server when
# its package is installed, unless policy-rc.d forbids it: the tests start their own servers, on their own ports.
define install
	@absent=(); for package in $(1); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || absent+=("$$package"); \
	done; \
	if ((!$${#absent[@]})); then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "make: not a Debian system; install what corresponds to: $${absent[*]}" >&2; exit 1; fi; \
	if (($$(id -u))); then echo "make: as root: apt-get install $${absent[*]}" >&2; exit 1; fi; \
	echo "installing $${absent[*]}"; \
	policy=/usr/sbin/policy-rc.d; \
	if [[ ! -e $$policy ]]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq; apt-get install -y -qq --no-install-recommends "$${absent[@]}" >/dev/null
endef

# Containers: an engine on this machine, Docker 20.10 or later. The image is made in another image, of Dockerfile.builder, so neither Rust nor
# clang is needed here. docs/image.md says more.
VERSION   := $(shell sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n 1)
IMAGE     ?= remora
TAG       ?= $(VERSION)
PLATFORM  ?= linux/amd64
PLATFORMS ?= $(PLATFORM)

image: ## the agent's image, remora:VERSION; also IMAGE=, TAG=, PLATFORM=linux/arm64
	scripts/build-image.sh $(IMAGE):$(TAG) $(PLATFORM)

push: ## makes it and pushes it, e.g. make push IMAGE=registry.example/remora PLATFORMS='linux/amd64 linux/arm64'
	scripts/push-image.sh $(IMAGE):$(TAG) $(PLATFORMS)

test-containers: deps rust ## the image watches other containers, privileged and with the exact capabilities
	tests/containers/run.sh $(IMAGE):$(TAG)

deps: ## what building needs
	$(call install,$(BUILD_PACKAGES))

deps-test: ## what the tests need
	$(call install,$(TEST_PACKAGES))

deps-lint:
	$(call install,$(LINT_PACKAGES))

deps-fuzz:
	$(call install,$(FUZZ_PACKAGES))

rust:
	@command -v $(CARGO) >/dev/null || { \
		echo "make: cargo is missing. Remora needs Rust 1.95 or later: see https://rustup.rs, or" >&2; \
		echo "      apt-get install -y rustup && rustup default stable   (Debian 13 and later)" >&2; exit 1; }
