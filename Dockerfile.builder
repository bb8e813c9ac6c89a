# The one toolchain of Remora: clang and bpftool for the kernel's side, Rust for the other, and what both processors link with.
# Nothing of the project is in it: `make image` mounts the sources. By itself: docker build -t remora-builder - <Dockerfile.builder
ARG DEBIAN=debian:bookworm-slim
FROM ${DEBIAN}

# clang 14 and bpftool 7.1 come with this Debian release. Rust is this version, from Debian as long as Debian has it, else from rustup.
ARG RUST_VERSION=1.96.0
ARG RUSTUP_VERSION=1.28.2

RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    here=$(dpkg --print-architecture); \
    case $here in \
        amd64) other=arm64 cross=gcc-aarch64-linux-gnu libc=libc6-dev-arm64-cross ;; \
        arm64) other=amd64 cross=gcc-x86-64-linux-gnu libc=libc6-dev-amd64-cross ;; \
        *) echo "no toolchain for $here" >&2; exit 1 ;; \
    esac; \
    dpkg --add-architecture "$other"; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends ca-certificates clang llvm bpftool make pkg-config gcc libc6-dev \
        libelf-dev zlib1g-dev "$cross" "$libc" "libelf-dev:$other" "zlib1g-dev:$other"; \
    if apt-get install -y -qq --no-install-recommends "rustc-web=$RUST_VERSION+*" "cargo-web=$RUST_VERSION+*" \
        "libstd-rust-web-dev=$RUST_VERSION+*" "libstd-rust-web-dev:$other=$RUST_VERSION+*"; then :; \
    else \
        apt-get install -y -qq --no-install-recommends curl; \
        export RUSTUP_HOME=/opt/rustup CARGO_HOME=/opt/cargo; \
        curl --proto '=https' --tlsv1.2 -fsSo /tmp/rustup-init \
            "https://static.rust-lang.org/rustup/archive/$RUSTUP_VERSION/$(uname -m)-unknown-linux-gnu/rustup-init"; \
        chmod +x /tmp/rustup-init; \
        /tmp/rustup-init -y --no-modify-path --profile minimal --default-toolchain "$RUST_VERSION" \
            --target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu; \
        ln -s /opt/rustup/toolchains/*/bin/* /usr/local/bin/; \
        rm /tmp/rustup-init; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    rustc --version; cargo --version; clang --version; bpftool version
