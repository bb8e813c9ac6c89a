#!/usr/bin/env bash
# Builds the programs of a Kubernetes node from Debian's source package, which carries all of Kubernetes 1.20.2 with its vendor
# folder; no suite of Debian ships them ready-made. Needs nothing but an apt mirror.
#
#   tests/kubernetes/build.sh    kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy, and Debian's
#                                kubectl of the same version, into ${XDG_CACHE_HOME:-~/.cache}/remora/kubernetes-1.20.2/bin;
#                                prints that directory
#
# Ten minutes of two cores and some gigabytes of disk meanwhile, 420 MB afterwards; nothing to do when the programs are there.
# Interrupted, it leaves no half-made directory behind. Installs dpkg-dev, make, rsync and jq when absent; the sources and the Go
# compiler are fetched with apt directories of their own, unpacked and thrown away.
set -euo pipefail
# shellcheck source=tests/support/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/../support/debian.sh"

VERSION=1.20.2
PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
KEPT=$CACHE/kubernetes-$VERSION

# An apt of our own: bookworm with its source packages, whatever the machine's own sources are.
private_apt() {
	local dir=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[[ -r $keyring ]] || die "no $keyring: install debian-archive-keyring"
	mkdir -p "$dir"/{lists/partial,cache/archives/partial,etc,debs}
	: >"$dir/status"
	local mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
	printf '%s [signed-by=%s] %s bookworm main\n' deb "$keyring" "$mirror" deb-src "$keyring" "$mirror" >"$dir/etc/sources.list"
	cat >"$dir/apt.conf" <<CONF
Dir::State "$dir";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
CONF
	# Read before the machine's own settings, so that a proxy set there stays in force.
	export APT_CONFIG=$dir/apt.conf
	apt-get update -qq
}

fetch() {
	local dir=$1
	say "fetching the sources of kubernetes and golang-1.19"
	private_apt "$dir/apt"
	(
		cd "$dir/apt/debs"
		apt-get source -qq --download-only kubernetes
		apt-get download -qq golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev kubernetes-client
	)
	unset APT_CONFIG
	local deb
	for deb in "$dir"/apt/debs/*.deb; do dpkg -x "$deb" "$dir/root"; done
	dpkg-source --no-check -x "$dir"/apt/debs/kubernetes_*.dsc "$dir/kubernetes" >/dev/null
}

compile() {
	local dir=$1 reflect2=vendor/github.com/modern-go/reflect2
	cd "$dir/kubernetes"
	# The vendored reflect2 reads maps of the Go runtime in a way that later compilers made wrong: the API server crashes with it.
	rm -rf "$reflect2"
	cp -r "$dir/root/usr/share/gocode/src/github.com/modern-go/reflect2" "$reflect2"
	mkdir -p .go/src/k8s.io
	ln -s ../../.. .go/src/k8s.io/kubernetes
	say "building ${PROGRAMS[*]}: some ten minutes"
	local log=$KEPT.build.log
	env PATH="$dir/root/usr/lib/go-1.19/bin:$PATH" GOROOT="$dir/root/usr/lib/go-1.19" GOPATH="$PWD/.go" GOCACHE="$dir/go-cache" \
		CGO_ENABLED=0 GOPROXY=off GOFLAGS="-p=$(nproc)" \
		KUBE_GIT_VERSION=v$VERSION KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_COMMIT=deb KUBE_GIT_TREE_STATE=clean \
		make WHAT="${PROGRAMS[*]/#/cmd/}" GOLDFLAGS="-s -w" >"$log" 2>&1 || {
		tail -n 40 "$log" >&2
		die "the build failed; all of its output: $log"
	}
	rm -f "$log"
}

complete() {
	local program
	for program in "${PROGRAMS[@]}" kubectl; do [[ -x $KEPT/bin/$program ]] || return 1; done
}

if ! complete; then
	install_packages dpkg-dev make rsync jq debian-archive-keyring
	mkdir -p "$CACHE"
	# Two at once would do the same work twice.
	exec 9>"$KEPT.lock"
	flock 9
	if ! complete; then
		begin=$SECONDS
		work=$(mktemp -d "$CACHE/kubernetes-build.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		fetch "$work"
		(compile "$work")
		mkdir -p "$work/done/bin"
		for program in "${PROGRAMS[@]}"; do cp "$work/kubernetes/_output/bin/$program" "$work/done/bin/"; done
		# A newer kubectl may be installed; it no longer knows what this server calls a CronJob.
		cp "$work/root/usr/bin/kubectl" "$work/done/bin/"
		rm -rf "$KEPT"
		mv "$work/done" "$KEPT"
		say "built in $((SECONDS - begin)) s: $(du -sh "$KEPT" | cut -f1) in $KEPT"
	fi
fi
echo "$KEPT/bin"
