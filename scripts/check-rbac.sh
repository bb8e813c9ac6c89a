#!/usr/bin/env bash
# What a real API server makes of deploy/kubernetes: it takes every object, the account may list and watch what the ClusterRole names and
# nothing else, and deleting leaves nothing. Applies to the cluster of KUBECONFIG and removes again; refuses where Remora is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl=${KUBECTL:-kubectl}
manifest=deploy/kubernetes/remora.yaml
account=system:serviceaccount:remora:remora
say() { echo "ok: $*"; }
fail() {
	echo "check-rbac: $*" >&2
	exit 1
}

: "${KUBECONFIG:?check-rbac: say which cluster: KUBECONFIG=FILE}"
if "$kubectl" get clusterrole remora >/dev/null 2>&1; then fail "Remora is installed in this cluster; this check would remove it"; fi
inventory() { "$kubectl" get namespaces,clusterroles,clusterrolebindings --output name | LC_ALL=C sort; }
work=$(mktemp -d)
cleanup() {
	trap - EXIT
	"$kubectl" delete -f "$manifest" --ignore-not-found --wait=false >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
inventory >"$work/before"

# The overlay differs in the DaemonSet only.
"$kubectl" apply -f deploy/kubernetes/base/namespace.yaml >/dev/null
"$kubectl" kustomize deploy/kubernetes/privileged 2>/dev/null | "$kubectl" apply --dry-run=server -f - >"$work/log" 2>&1 || fail "privileged: $(cat "$work/log")"
say "the server takes the privileged overlay"
"$kubectl" apply --dry-run=server -f "$manifest" >"$work/log" 2>&1 || fail "$(cat "$work/log")"
"$kubectl" apply -f "$manifest"
"$kubectl" diff -f "$manifest" || fail "what the server has is not what was applied"
say "the server takes the manifests, and has what they say"

# What the account may do beyond what every authenticated account may.
echo
echo "kubectl auth can-i --list --as=$account"
"$kubectl" auth can-i --list --as="$account"
echo
# Columns: resources, URLs, names, verbs. Reviews of one's own access are everybody's.
"$kubectl" auth can-i --list --as="$account" --no-headers |
	awk '$1 !~ /^\[/ { verbs = $0; sub(/.*\[/, "", verbs); sub(/\].*/, "", verbs); print $1 ": " verbs }' |
	grep -v '^self.*reviews\.' | LC_ALL=C sort >"$work/may"
cat >"$work/should" <<-'END'
	endpointslices.discovery.k8s.io: list watch
	jobs.batch: list watch
	nodes: list watch
	pods: list watch
	replicasets.apps: list watch
	services: list watch
END
diff "$work/should" "$work/may" || fail "the account may more or less than the manifests say"
for refused in "get secrets" "list secrets" "list configmaps" "list namespaces" "list deployments.apps" "get pods" "create pods" "delete pods" "create pods/exec" "get pods/log" \
	"patch nodes" "get nodes/proxy" "create serviceaccounts/token" "impersonate users" "escalate clusterroles" "watch events"; do
	read -r verb resource <<<"$refused"
	answer=$("$kubectl" auth can-i "$verb" "$resource" --as="$account" --all-namespaces 2>/dev/null || true)
	[[ $answer == no ]] || fail "the account may $refused"
done
say "list and watch of six resources, and nothing else"

# Not only by the book: each list and each watch, really asked.
while IFS=: read -r resource _; do
	"$kubectl" get "$resource" --all-namespaces --as="$account" --output name >/dev/null || fail "the account cannot list $resource"
	"$kubectl" get "$resource" --all-namespaces --as="$account" --watch-only --request-timeout=1s --output name >"$work/log" 2>&1 || true
	if grep -qi forbidden "$work/log"; then fail "the account cannot watch $resource"; fi
done <"$work/should"
say "as that account, lists and watches are answered"

# The controller manager empties and ends a namespace. Where an API server runs alone, that is left to us.
"$kubectl" delete -f "$manifest" --wait=false >/dev/null
if ! "$kubectl" --namespace kube-system get lease kube-controller-manager >/dev/null 2>&1; then
	"$kubectl" get namespace remora --output json | jq '.spec.finalizers = []' |
		"$kubectl" replace --raw /api/v1/namespaces/remora/finalize -f - >/dev/null
fi
"$kubectl" wait --for=delete namespace/remora --timeout=120s >/dev/null 2>&1 || true
inventory >"$work/after"
diff "$work/before" "$work/after" || fail "something was left behind"
say "deleting leaves nothing"
