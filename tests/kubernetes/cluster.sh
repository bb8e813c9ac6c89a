#!/usr/bin/env bash
# A real Kubernetes 1.20.2 node on this machine, in one directory, removed without a trace: etcd, kube-apiserver with TLS and RBAC,
# controller-manager, scheduler, kubelet with Docker, kube-proxy with iptables, pods on a bridge, cluster DNS.
#
#   cluster.sh up [OPTIONS] [STATE_DIR]       start what does not run yet, wait until node and DNS are ready; print what `env` prints
#   cluster.sh env     [STATE_DIR]            KUBECONFIG=…, KUBECTL=…, API_SERVER=…, NODE=…, NODE_IP=…, DOCKER_HOST=…, one a line
#   cluster.sh status  [STATE_DIR]            each component with its pid; exit 1 when one that was started is gone
#   cluster.sh stop  COMPONENT [STATE_DIR]    end one component: etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
#                                             kubelet, kube-proxy
#   cluster.sh start COMPONENT [STATE_DIR]    start it again and wait until it is well
#   cluster.sh shop    [STATE_DIR]            build the image, apply shop/shop.yaml and wait for all of it
#   cluster.sh down    [STATE_DIR]            end all of it and remove containers, interfaces, firewall rules, mounts, groups and STATE_DIR
#
# Options of `up`:
#   --api-only           etcd and kube-apiserver on loopback and ports that are free; no engine, no node, several side by side. Pods may be
#                        created with a nodeName and given a status by hand; no ServiceAccount need exist for them
#   --api-flag=FLAG      one more flag for kube-apiserver, e.g. --api-flag=--min-request-timeout=5; may be repeated
#   --engine=DIR         state directory of the container engine, /tmp/remora-engine unless given (see ../support/engine.sh); it is started
#                        when it does not run, and `down` leaves it running with its images
#
# STATE_DIR is /tmp/remora-cluster unless given. Root; Debian; installs what it uses when absent: etcd-server, curl, openssl, iproute2
# and, for a node, docker.io, iptables, conntrack, socat, ethtool, containernetworking-plugins, procps, gcc. The programs of
# Kubernetes come from build.sh, which takes ten minutes once. docs/testing-kubernetes.md tells what is different in current clusters.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/support/debian.sh
source "$here/../support/debian.sh"
# shellcheck source=tests/support/firewall.sh
source "$here/../support/firewall.sh"

NODE=node-1
SERVICES=10.96.0.0/16
PODS=10.244.0.0/16
BRIDGE=cni-remora
CONTROL_PLANE=(etcd kube-apiserver)
WHOLE_NODE=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

usage() {
	sed -nE '2,/^set /{/^#/s/^# ?//p}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

api_only=
api_flags=()
engine=/tmp/remora-engine
positional=()
for argument in "$@"; do
	case $argument in
	--api-only) api_only=1 ;;
	--api-flag=*) api_flags+=("${argument#*=}") ;;
	--engine=*) engine=$(realpath -m "${argument#*=}") ;;
	-*) usage ;;
	*) positional+=("$argument") ;;
	esac
done
command=${positional[0]:-}
case $command in
stop | start | run) component=${positional[1]:-} state=${positional[2]:-} ;;
*) component='' state=${positional[1]:-} ;;
esac
state=$(realpath -m "${state:-/tmp/remora-cluster}")

# --- what `up` decided once, and the other commands read -------------------------------------------------------------------------

settings=$state/settings
api_port='' etcd_port='' etcd_peer_port='' address=''

free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 10000))
		[[ -n $(ss -ltnH "sport = :$port") ]] || break
	done
	echo "$port"
}

decide() {
	local address=127.0.0.1 port=
	[[ -n $api_only ]] && port=$(free_port)
	if [[ -z $api_only ]]; then
		address=$(ip -4 -o addr show docker0 | sed -nE 's/.* inet ([0-9.]+).*/\1/p')
		port=6443
	fi
	mkdir -p "$state"/{log,run,pki}
	{
		echo "api_only=$api_only"
		# An address that pods can reach, and nobody outside of this machine.
		echo "address=$address"
		echo "api_port=$port"
		echo "etcd_port=$(free_port)"
		echo "etcd_peer_port=$(free_port)"
		echo "engine=$engine"
		printf 'api_flags=('
		((${#api_flags[@]})) && printf '%q ' "${api_flags[@]}"
		echo ')'
	} >"$settings.new"
	mv "$settings.new" "$settings"
}

recall() {
	[[ -r $settings ]] || die "no cluster in $state: cluster.sh up $state"
	# shellcheck disable=SC1090
	source "$settings"
	bin=$CACHE/kubernetes-1.20.2/bin
	kubeconfig=$state/admin.kubeconfig
	if [[ -n $api_only ]]; then components=("${CONTROL_PLANE[@]}"); else components=("${WHOLE_NODE[@]}"); fi
	export DOCKER_HOST=unix://$engine/docker.sock
}

kubectl() { "$bin/kubectl" --kubeconfig "$kubeconfig" "$@"; }

environment() {
	echo "KUBECONFIG=$kubeconfig"
	echo "KUBECTL=$bin/kubectl"
	echo "API_SERVER=https://$address:$api_port"
	if [[ -z $api_only ]]; then
		echo "NODE=$NODE"
		echo "NODE_IP=$address"
		echo "DOCKER_HOST=$DOCKER_HOST"
	fi
}

# --- keys and certificates -------------------------------------------------------------------------------------------------------

# certificate NAME SUBJECT [ALTERNATIVE_NAMES]: signed by the cluster's authority, for servers and clients.
certificate() {
	local pki=$state/pki
	[[ -e $pki/$1.crt ]] && return
	openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"
	openssl req -new -key "$pki/$1.key" -subj "$2" -out "$pki/$1.csr"
	{
		echo 'basicConstraints=critical,CA:FALSE'
		echo 'extendedKeyUsage=serverAuth,clientAuth'
		[[ -n ${3:-} ]] && echo "subjectAltName=$3"
		true
	} >"$pki/$1.ext"
	openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -extfile "$pki/$1.ext" \
		-out "$pki/$1.crt.new" 2>/dev/null
	mv "$pki/$1.crt.new" "$pki/$1.crt"
}

# kubeconfig_for NAME: the API as the one whom the certificate NAME names.
kubeconfig_for() {
	cat >"$state/$1.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters:
- name: remora-test
  cluster:
    server: https://$address:$api_port
    certificate-authority-data: $(base64 -w0 "$state/pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$state/pki/$1.crt")
    client-key-data: $(base64 -w0 "$state/pki/$1.key")
contexts:
- name: remora-test
  context:
    cluster: remora-test
    user: $1
current-context: remora-test
CONFIG
	chmod 600 "$state/$1.kubeconfig"
}

identities() {
	local pki=$state/pki
	if [[ ! -e $pki/ca.crt ]]; then
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=remora-test-ca \
			-keyout "$pki/ca.key" -out "$pki/ca.crt.new" 2>/dev/null
		mv "$pki/ca.crt.new" "$pki/ca.crt"
	fi
	[[ -e $pki/accounts.key ]] || openssl ecparam -name prime256v1 -genkey -noout -out "$pki/accounts.key"
	local service=kubernetes.default.svc
	certificate apiserver /CN=kube-apiserver "IP:$address,IP:127.0.0.1,IP:${SERVICES%.0/16}.1,DNS:localhost,DNS:kubernetes,$(
		printf 'DNS:%s,' "${service%.svc}" "$service"
	)DNS:$service.cluster.local"
	certificate admin /O=system:masters/CN=admin
	kubeconfig_for admin
	[[ -n $api_only ]] && return
	certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
	certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$address"
	certificate controller-manager /CN=system:kube-controller-manager
	certificate scheduler /CN=system:kube-scheduler
	certificate proxy /CN=system:kube-proxy
	local user
	for user in kubelet controller-manager scheduler proxy; do kubeconfig_for $user; done
}

# --- components ------------------------------------------------------------------------------------------------------------------

# The pid of a component that runs: the number that was written down, and still a program of this cluster.
pid_of() {
	local pid
	pid=$(cat "$state/run/$1.pid" 2>/dev/null) || return 1
	cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ' | grep -qF "$state/" && echo "$pid"
}

run_etcd() {
	exec etcd --data-dir "$state/etcd" --name "$NODE" --listen-client-urls "http://127.0.0.1:$etcd_port" \
		--advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$etcd_peer_port" \
		--initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer_port" --initial-cluster "$NODE=http://127.0.0.1:$etcd_peer_port" \
		--quota-backend-bytes 4294967296
}

run_kube-apiserver() {
	local pki=$state/pki flags=()
	if [[ -n $api_only ]]; then
		# Nobody makes accounts or their tokens, and 127.0.0.1 cannot be the endpoint of a service.
		flags=(--disable-admission-plugins=ServiceAccount --endpoint-reconciler-type=none)
	else
		flags=(--enable-admission-plugins=NodeRestriction --kubelet-client-certificate="$pki/apiserver-kubelet.crt"
			--kubelet-client-key="$pki/apiserver-kubelet.key" --kubelet-certificate-authority="$pki/ca.crt"
			--kubelet-preferred-address-types=InternalIP)
	fi
	exec "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" --bind-address="$address" --advertise-address="$address" \
		--secure-port="$api_port" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
		--client-ca-file="$pki/ca.crt" --cert-dir="$state/run" --service-cluster-ip-range="$SERVICES" \
		--authorization-mode=Node,RBAC --allow-privileged=true --profiling=false --service-account-key-file="$pki/accounts.key" \
		--service-account-signing-key-file="$pki/accounts.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
		"${flags[@]}" "${api_flags[@]}"
}

run_kube-controller-manager() {
	local config=$state/controller-manager.kubeconfig
	exec "$bin/kube-controller-manager" --kubeconfig="$config" --leader-elect=false --port=0 --bind-address=127.0.0.1 \
		--authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --cert-dir="$state/run" \
		--flex-volume-plugin-dir="$state/volume-plugins" --root-ca-file="$state/pki/ca.crt" \
		--service-account-private-key-file="$state/pki/accounts.key" \
		--use-service-account-credentials=true --allocate-node-cidrs=true --cluster-cidr="$PODS" --service-cluster-ip-range="$SERVICES"
}

run_kube-scheduler() {
	local config=$state/scheduler.kubeconfig
	exec "$bin/kube-scheduler" --kubeconfig="$config" --leader-elect=false --port=0 --bind-address=127.0.0.1 \
		--authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --cert-dir="$state/run"
}

run_kubelet() {
	cat >"$state/kubelet.yaml" <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $state/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/kubelet.crt
tlsPrivateKeyFile: $state/pki/kubelet.key
staticPodPath: $state/static-pods
clusterDNS: [${SERVICES%.0/16}.10]
clusterDomain: cluster.local
# As the engine, and without claims on a machine that others use too: nothing reserved, nothing evicted, no image deleted.
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
failSwapOn: false
readOnlyPort: 0
oomScoreAdj: 0
CONFIG
	mkdir -p "$state"/{kubelet,static-pods,dockershim}
	exec "$bin/kubelet" --config="$state/kubelet.yaml" --kubeconfig="$state/kubelet.kubeconfig" --hostname-override="$NODE" \
		--node-ip="$address" --root-dir="$state/kubelet" --cert-dir="$state/run" --volume-plugin-dir="$state/volume-plugins" \
		--container-runtime=docker --docker-endpoint="$DOCKER_HOST" --experimental-dockershim-root-directory="$state/dockershim" \
		--pod-infra-container-image=remora-test/pause --network-plugin=cni --cni-bin-dir=/usr/lib/cni --cni-conf-dir="$state/cni" \
		--cni-cache-dir="$state/cni-cache"
}

run_kube-proxy() {
	cat >"$state/proxy.yaml" <<CONFIG
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $state/proxy.kubeconfig}
mode: iptables
clusterCIDR: $PODS
hostnameOverride: $NODE
bindAddress: $address
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
# The limits of the machine's connection tracking are not ours to set.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
CONFIG
	exec "$bin/kube-proxy" --config="$state/proxy.yaml"
}

well_etcd() { curl -sf "http://127.0.0.1:$etcd_port/health" >/dev/null; }
well_kube-apiserver() { kubectl get --raw=/readyz >/dev/null 2>&1; }
well_kube-controller-manager() { curl -skf https://127.0.0.1:10257/healthz >/dev/null; }
well_kube-scheduler() { curl -skf https://127.0.0.1:10259/healthz >/dev/null; }
well_kubelet() { curl -sf http://127.0.0.1:10248/healthz >/dev/null; }
well_kube-proxy() { curl -sf http://127.0.0.1:10256/healthz >/dev/null; }

# launch NAME: starts a component unless it runs.
launch() {
	local name=$1
	pid_of "$name" >/dev/null && return
	[[ " ${components[*]} " == *" $name "* ]] || die "no component $name; there are: ${components[*]}"
	# A session of its own: neither the terminal's Ctrl-C nor the end of this script reaches it. The pid stays the same through every exec.
	setsid "${BASH_SOURCE[0]}" run "$name" "$state/" </dev/null >>"$state/log/$name.log" 2>&1 &
	echo $! >"$state/run/$name.pid"
}

# await NAME SECONDS: until a launched component is well.
await() {
	local name=$1 deadline=$((SECONDS + $2))
	until "well_$name"; do
		pid_of "$name" >/dev/null || fail_with "$name" "$name ended"
		((SECONDS < deadline)) || fail_with "$name" "$name is not well after $2 s"
		sleep 0.1
	done
}

fail_with() {
	tail -n 30 "$state/log/$1.log" >&2 || true
	die "$2; all of its output: $state/log/$1.log"
}

end() {
	local name=$1 pid deadline=$((SECONDS + 5))
	if pid=$(pid_of "$name"); then
		kill "$pid" 2>/dev/null || true
		while pid_of "$name" >/dev/null; do
			((SECONDS < deadline)) || {
				# The API server waits a minute for requests under way, and a watch is always under way.
				kill -9 "$pid" 2>/dev/null || true
				deadline=$((SECONDS + 20))
			}
			sleep 0.05
		done
	fi
	rm -f "$state/run/$name.pid"
}

# --- the machine -----------------------------------------------------------------------------------------------------------------

# What the kubelet and kube-proxy set without asking, and this script does.
SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
	net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.bridge.bridge-nf-call-iptables)

prepare_machine() {
	[[ -d /proc/sys/net/bridge ]] || modprobe br_netfilter 2>/dev/null || true
	# Without it the answer of a pod to another one on the same bridge would come from its own address, not from the service's.
	[[ -d /proc/sys/net/bridge ]] || die "this kernel has no br_netfilter"
	if [[ ! -e $state/sysctls ]]; then
		local name
		for name in "${SYSCTLS[@]}"; do sysctl -e "$name"; done >"$state/sysctls.new"
		for name in /var/log/pods /var/log/containers /var/lib/kubelet; do [[ -e $name ]] || echo "$name"; done >"$state/made-directories"
		mv "$state/sysctls.new" "$state/sysctls"
	fi
	sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
	# Docker closes the FORWARD chain, through which what the bridge carries passes too.
	local direction
	for direction in -s -d; do
		iptables -C FORWARD $direction "$PODS" -m comment --comment "remora test cluster" -j ACCEPT 2>/dev/null ||
			iptables -I FORWARD $direction "$PODS" -m comment --comment "remora test cluster" -j ACCEPT
	done
	mkdir -p "$state/cni"
	cat >"$state/cni/10-bridge.conflist" <<CONFIG
{
  "cniVersion": "0.4.0",
  "name": "remora-test",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "$BRIDGE",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "$state/cni-addresses",
        "ranges": [[{"subnet": "${PODS%.0/16}.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
CONFIG
}

images() {
	local work
	"$here/../support/engine.sh" base "$engine"
	if ! docker image inspect remora-test/pause >/dev/null 2>&1; then
		work=$(mktemp -d)
		gcc -static -Os -s -o "$work/pause" "$here/pause.c"
		tar -C "$work" -c pause | docker import --change 'ENTRYPOINT ["/pause"]' - remora-test/pause >/dev/null
		rm -rf "$work"
	fi
	# Takes a minute the first time, a second when nothing changed.
	docker build -q -t remora-test/shop "$here/shop" >"$state/log/image.log" 2>&1 || fail_with image "the image of the shop was not built"
	# What the name pointed to before.
	docker image prune -f --filter label=remora-test=shop >/dev/null
}

restore_machine() {
	local name value
	"$bin/kube-proxy" --cleanup >/dev/null 2>&1 || true
	remove_rules 'KUBE-|CNI-|remora test cluster' '(KUBE|CNI)-[A-Za-z0-9-]*'
	ip link delete "$BRIDGE" 2>/dev/null || true
	# The next cluster hands out the same addresses.
	conntrack -D -s "$PODS" >/dev/null 2>&1 || true
	# shellcheck disable=SC2013 # state directories with spaces in their names are not supported
	for name in $(cut -d' ' -f2 /proc/self/mounts | grep "^$state/" | sort -r); do umount "$name"; done
	find /sys/fs/cgroup -maxdepth 3 -type d -name kubepods -prune -print0 |
		while IFS= read -r -d '' name; do find "$name" -depth -type d -exec rmdir {} + || true; done
	if [[ -e $state/sysctls ]]; then
		while IFS=' =' read -r name value; do sysctl -qw "$name=$value"; done <"$state/sysctls"
		# shellcheck disable=SC2046 # one word a line
		rm -rf $(cat "$state/made-directories")
	fi
}

# --- commands --------------------------------------------------------------------------------------------------------------------

up() {
	local begin=$SECONDS name
	if [[ ! -e $settings ]]; then
		install_packages etcd-server curl openssl iproute2
		"$here/build.sh" >/dev/null
		if [[ -z $api_only ]]; then
			install_packages docker.io iptables conntrack socat ethtool containernetworking-plugins procps gcc libc6-dev
			"$here/../support/engine.sh" up "$engine" >/dev/null
		fi
		decide
	fi
	recall
	if [[ -z $api_only ]]; then "$here/../support/engine.sh" up "$engine" >/dev/null; fi
	identities
	launch etcd
	await etcd 20
	launch kube-apiserver
	if [[ -n $api_only ]]; then
		await kube-apiserver 60
		say "the API is up after $((SECONDS - begin)) s"
		return
	fi
	prepare_machine
	images
	await kube-apiserver 60
	for name in kube-controller-manager kube-scheduler kubelet kube-proxy; do launch $name; done
	for name in kube-controller-manager kube-scheduler kubelet kube-proxy; do await $name 60; done
	kubectl apply -f "$here/dns.yaml" >/dev/null
	wait_for kubelet 60 "node $NODE to register" kubectl get node "$NODE"
	kubectl wait --for=condition=Ready "node/$NODE" --timeout=60s >/dev/null || fail_with kubelet "the node is not ready"
	rollout kube-system deployment/cluster-dns
	say "the node is up after $((SECONDS - begin)) s"
}

# wait_for COMPONENT SECONDS WHAT COMMAND…: until it succeeds; COMPONENT is whose fault it would be.
wait_for() {
	local name=$1 deadline=$((SECONDS + $2)) what=$3
	shift 3
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail_with "$name" "waited in vain for $what"
		sleep 0.1
	done
}

# rollout NAMESPACE OBJECT…: until all pods of the workloads are ready.
rollout() {
	local namespace=$1 object
	shift
	for object in "$@"; do
		kubectl -n "$namespace" rollout status "$object" --timeout=120s >/dev/null || {
			kubectl -n "$namespace" get pods -o wide >&2
			kubectl -n "$namespace" get events --sort-by=.lastTimestamp \
				-o custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message | tail -n 20 >&2
			die "$namespace $object is not ready"
		}
	done
}

shop() {
	local begin=$SECONDS
	[[ -z $api_only ]] || die "this cluster has no node"
	images
	kubectl apply -f "$here/shop/shop.yaml" >/dev/null
	rollout shop deployment/{storefront,catalog,cache,broker,gateway,load} statefulset/db
	rollout warehouse deployment/stock daemonset/courier
	say "the shop is open after $((SECONDS - begin)) s"
}

status() {
	local name pid all=0
	for name in "${components[@]}"; do
		if pid=$(pid_of "$name"); then
			echo "$name $pid $("well_$name" && echo well || echo unwell)"
		else
			echo "$name - stopped"
			all=1
		fi
	done
	return $all
}

down() {
	local index
	if [[ -e $settings ]]; then
		recall
		# The API last: it waits for those who watch it.
		for ((index = ${#components[@]} - 1; index > 1; index--)); do end "${components[index]}"; done
		if [[ -z $api_only ]] && docker version >/dev/null 2>&1; then
			docker ps -aq --filter label=io.kubernetes.pod.uid | xargs -r docker rm -f >/dev/null
		fi
		end kube-apiserver
		end etcd
		if [[ -z $api_only ]]; then restore_machine; fi
	fi
	# Whatever is mounted below is not ours to delete; a directory that is no cluster's stays.
	if [[ -e $settings ]]; then rm -rf --one-file-system "$state"; fi
	say "down"
}

((EUID == 0)) || die "as root"
case $command in
up)
	up
	environment
	;;
run) # what `launch` becomes
	recall
	"run_$component"
	;;
env)
	recall
	environment
	;;
status)
	recall
	status
	;;
stop)
	recall
	end "$component"
	;;
start)
	recall
	launch "$component"
	await "$component" 60
	;;
shop)
	recall
	shop
	;;
down) down ;;
*) usage ;;
esac
