#!/bin/sh
# The agent as one static program: build-static.sh amd64|arm64 OUTPUT. Cross-builds where this machine is the other.
# PROFILE is cargo's, else release. Runs in the image of Dockerfile.builder (`make image`), or wherever what that file installs is there.
set -eu
architecture=$1 output=$2 profile=${PROFILE:-release}
case $architecture in
	amd64) target=x86_64-unknown-linux-gnu ;;
	arm64) target=aarch64-unknown-linux-gnu ;;
	*) echo "build-static.sh: no such architecture: $architecture (amd64, arm64)" >&2; exit 2 ;;
esac
triple=${target%%-*}-linux-gnu
constant=$(echo "$target" | tr 'a-z-' 'A-Z_')
cd "$(dirname "$0")/.."

# What runs during the build links libelf and libz, too, for this machine; with --target only the program itself is static.
export LIBBPF_SYS_LIBRARY_PATH_x86_64_unknown_linux_gnu="${LIBBPF_SYS_LIBRARY_PATH_x86_64_unknown_linux_gnu:-/usr/lib/x86_64-linux-gnu}"
export LIBBPF_SYS_LIBRARY_PATH_aarch64_unknown_linux_gnu="${LIBBPF_SYS_LIBRARY_PATH_aarch64_unknown_linux_gnu:-/usr/lib/aarch64-linux-gnu}"
export "CARGO_TARGET_${constant}_LINKER=$triple-gcc" PKG_CONFIG_ALLOW_CROSS=1
export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$PWD=/remora --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cargo build --profile "$profile" --locked --bin remora --features static --target "$target"

built=${CARGO_TARGET_DIR:-target}/$target/$profile/remora
mkdir -p "$(dirname "$output")"
"$triple-strip" -o "$output" "$built"
