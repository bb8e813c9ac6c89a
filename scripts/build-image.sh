#!/usr/bin/env bash
# The agent's image, by Dockerfile.builder and Dockerfile: build-image.sh NAME:TAG linux/amd64|linux/arm64 (`make image`).
#
# The program is built in a container of the builder with the sources, cargo's registry and its settings mounted, as the user who calls:
# what a network needs to reach crates (mirrors, proxies, authorities) is used and ends up in no image. Any Docker from 20.10 on will do,
# with BuildKit or without; the engine must be on this machine. PROGRAM=FILE takes a static program that was built elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1 platform=$2
architecture=${platform#linux/}
[[ $architecture == amd64 || $architecture == arm64 ]] || { echo "build-image.sh: no such platform: $platform (linux/amd64, linux/arm64)" >&2; exit 2; }
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n 1)
builder=${BUILDER:-remora-builder:$version}
folder=target/image/$architecture
cargo_home=${CARGO_HOME:-$HOME/.cargo}
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

# From standard input, so nothing of this folder is sent to the engine.
docker build --tag "$builder" --build-arg "DEBIAN=${DEBIAN:-debian:bookworm-slim}" ${RUST_VERSION:+--build-arg "RUST_VERSION=$RUST_VERSION"} - <Dockerfile.builder

mkdir -p "$folder" "$cargo_home/registry"
mounts=(--volume "$PWD:/remora:ro" --volume "$PWD/target/image:/out" --volume "$cargo_home/registry:/cargo/registry")
for settings in config config.toml; do
	[[ ! -e $cargo_home/$settings ]] || mounts+=(--volume "$cargo_home/$settings:/cargo/$settings:ro")
done
# Debian's own bundle goes into the image; the machine's serves the build alone.
docker run --rm "$builder" cat /etc/ssl/certs/ca-certificates.crt >"$folder/ca-certificates.crt"
[[ ! -e $authorities ]] || mounts+=(--volume "$authorities:/etc/ssl/certs/ca-certificates.crt:ro")
# Types of kernels that have none, to be built in: docs/btf.md.
[[ -z ${REMORA_BTF_ARCHIVE:-} ]] || mounts+=(--volume "$(realpath "$REMORA_BTF_ARCHIVE"):/btf.tar.xz:ro" --env REMORA_BTF_ARCHIVE=/btf.tar.xz)
if [[ -n ${PROGRAM:-} ]]; then
	cp "$PROGRAM" "$folder/remora"
else
	docker run --rm --user "$(id -u):$(id -g)" "${mounts[@]}" --workdir /remora --env HOME=/tmp --env CARGO_HOME=/cargo --env CARGO_TARGET_DIR=/out/build \
		--env http_proxy --env https_proxy --env no_proxy --env HTTP_PROXY --env HTTPS_PROXY --env NO_PROXY \
		"$builder" scripts/build-static.sh "$architecture" "/out/$architecture/remora"
fi

docker build --tag "$image" --platform "$platform" --build-arg "VERSION=$version" \
	--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" --build-arg "CREATED=$(date --utc +%Y-%m-%dT%H:%M:%SZ)" \
	--file Dockerfile "$folder"
docker image inspect --format "$image {{.Os}}/{{.Architecture}} {{.Size}} bytes" "$image"
