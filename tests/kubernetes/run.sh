#!/usr/bin/env bash
# `make test-kubernetes`: the agent beside a real Kubernetes. The node, its engine and the shop are made and taken down here; the image is that of
# `make image`, made where it is absent. REMORA_IMAGE names another one, PROGRAM=FILE saves its build (scripts/build-image.sh). Words behind the
# image's name choose among the tests: run.sh remora:0.1.0 shop
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${REMORA_IMAGE:-$1}
shift
engine=tests/support/engine.sh
export DOCKER_HOST
DOCKER_HOST=$("$engine" env | sed -n 's/^DOCKER_HOST=//p')
was_up=0
! docker version >/dev/null 2>&1 || was_up=1
DOCKER_HOST=$("$engine" up | sed -n 's/^DOCKER_HOST=//p')
finish() {
	tests/kubernetes/cluster.sh down
	((was_up)) || "$engine" down
}
trap finish EXIT
"$engine" base
docker image inspect "$image" >/dev/null 2>&1 || scripts/build-image.sh "$image" "linux/$(dpkg --print-architecture)"
# The manifests ask for the released version.
docker image inspect remora:0.1.0 >/dev/null 2>&1 || docker tag "$image" remora:0.1.0
tests/kubernetes/build.sh
cargo test --release --test kubernetes -- --test-threads=1 --nocapture "$@"
