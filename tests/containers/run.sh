#!/usr/bin/env bash
# `make test-containers`: the image of `make image`, made where it is absent, watches other containers. On the engine that answers, else on a
# private one for the time of the tests. REMORA_IMAGE names another image; PROGRAM=FILE saves the build, see scripts/build-image.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/debian.sh
source tests/support/debian.sh
if ! docker version >/dev/null 2>&1; then
	engine=tests/support/engine.sh
	export DOCKER_HOST
	DOCKER_HOST=$("$engine" up | sed -n 's/^DOCKER_HOST=//p')
	trap '"$engine" down' EXIT
	"$engine" base
fi
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || install_packages docker-compose
export REMORA_IMAGE=${REMORA_IMAGE:-$1}
docker image inspect "$REMORA_IMAGE" >/dev/null 2>&1 || scripts/build-image.sh "$REMORA_IMAGE" "linux/$(dpkg --print-architecture)"
cargo test --release --test containers -- --test-threads=1
