#!/usr/bin/env bash
# A Debian package of a built program: deb.sh BINARY [ARCHITECTURE]. Writes target/deb/remora_VERSION_ARCHITECTURE.deb and says so.
# The same tree gives the same package, byte for byte.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:?usage: deb.sh BINARY [ARCHITECTURE]}
architecture=${2:-$(dpkg --print-architecture)}
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -1)
maintainer='Remora maintainers <remora@example.org>'
fail() {
	echo "deb: $*" >&2
	exit 1
}

[[ -x $binary ]] || fail "$binary is missing: run \`make deb\`"
case $architecture in
amd64) machine='X86-64' ;;
arm64) machine='AArch64' ;;
*) fail "$architecture is not an architecture that Remora runs on: amd64 or arm64" ;;
esac
LC_ALL=C readelf -h "$binary" | grep -q "Machine:.*$machine" || fail "$binary is not a program for $architecture"

# The time of the last change, so that a second package of the same tree is the same.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}
export SOURCE_DATE_EPOCH
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
documents=$tree/usr/share/doc/remora

install -D -m 755 "$binary" "$tree/usr/bin/remora"
llvm-strip --strip-all --remove-section=.comment --remove-section=.note "$tree/usr/bin/remora"
install -D -m 644 deploy/systemd/remora.service "$tree/usr/lib/systemd/system/remora.service"
install -D -m 644 deploy/systemd/remora.yaml "$tree/etc/remora/remora.yaml"
install -D -m 644 deploy/systemd/remora.8 "$tree/usr/share/man/man8/remora.8"
install -D -m 644 deploy/debian/copyright "$documents/copyright"
printf 'remora (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- %s  %s\n' \
	"$version" "$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" >"$documents/changelog"
gzip -9n "$documents/changelog" "$tree/usr/share/man/man8/remora.8"

mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
	install -m 755 "deploy/debian/$script" "$tree/DEBIAN/$script"
done
echo /etc/remora/remora.yaml >"$tree/DEBIAN/conffiles"

# dpkg-shlibdeps looks for a source package around it. A program for another architecture needs the libraries of that one to be asked.
mkdir -p "$work/source/debian"
printf 'Source: remora\n\nPackage: remora\nArchitecture: any\n' >"$work/source/debian/control"
depends=
if LC_ALL=C readelf -d "$tree/usr/bin/remora" | grep -q NEEDED; then
	depends=$(cd "$work/source" && dpkg-shlibdeps -O "$tree/usr/bin/remora" 2>"$work/shlibdeps") ||
		fail "the libraries of $binary are not of installed packages: $(tail -1 "$work/shlibdeps")"
	depends=${depends#shlibs:Depends=}
fi
{
	cat <<-CONTROL
		Package: remora
		Version: $version
		Architecture: $architecture
		Maintainer: $maintainer
		Section: admin
		Priority: optional
		Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)
	CONTROL
	[[ -z $depends ]] || echo "Depends: $depends"
	cat <<-'CONTROL'
		Description: eBPF agent that turns traffic into a service map and signals
		 Remora watches the network traffic of a host from inside the kernel,
		 understands the protocols spoken (HTTP, gRPC, PostgreSQL, MySQL, Redis,
		 AMQP, DNS and others) and shows who talks to whom, how often, how fast
		 and with what errors. The watched programs do not change.
		 .
		 This package runs it as a service with Prometheus metrics on port 7117
		 of the loopback address.
	CONTROL
} >"$tree/DEBIAN/control"
(cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$tree/DEBIAN/md5sums"

package=target/deb/remora_${version}_$architecture.deb
mkdir -p target/deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$package" >/dev/null
echo "$package"
