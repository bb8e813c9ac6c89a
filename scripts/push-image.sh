#!/usr/bin/env bash
# Makes the agent's image for each platform and pushes it: push-image.sh NAME:TAG PLATFORM... (`make push`). With several platforms each has
# a tag of its own, NAME:TAG-ARCHITECTURE, and NAME:TAG is the list of them, of which an engine takes the one that fits.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1
shift
if (($# == 1)); then
	scripts/build-image.sh "$image" "$1"
	docker push "$image"
	exit
fi
parts=()
for platform in "$@"; do
	part=$image-${platform#linux/}
	scripts/build-image.sh "$part" "$platform"
	docker push "$part"
	parts+=("$part")
done
docker manifest rm "$image" 2>/dev/null || true
docker manifest create ${INSECURE:+--insecure} "$image" "${parts[@]}"
docker manifest push --purge ${INSECURE:+--insecure} "$image"
