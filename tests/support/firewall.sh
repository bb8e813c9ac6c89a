# Sourced by the scripts of the test beds: taking back firewall rules by what they say, without touching those of others.
# shellcheck shell=bash

# remove_rules PATTERN CHAINS: in every table of both protocols, the rules that match the extended expression PATTERN, then the chains whose
# names match CHAINS with all that is in them.
remove_rules() {
	local tool table rules rule chain chains
	for tool in iptables ip6tables; do
		command -v "$tool" >/dev/null || continue
		for table in filter nat mangle raw; do
			rules=$("$tool" -t "$table" -S 2>/dev/null) || continue
			while read -r rule; do
				# xargs reads the quotes around a comment and nothing else of what a shell would; a quote inside becomes "'"'" to it.
				rule=${rule//\\\"/\"\'\"\'\"}
				xargs "$tool" -t "$table" -D <<<"${rule#-A }" 2>/dev/null || true
			done < <(grep -E '^-A ' <<<"$rules" | grep -E -- "$1" | grep -vE -- "^-A ($2) ")
			mapfile -t chains < <(sed -nE "s/^-N ($2)\$/\\1/p" <<<"$rules")
			for chain in "${chains[@]}"; do "$tool" -t "$table" -F "$chain" || true; done
			for chain in "${chains[@]}"; do "$tool" -t "$table" -X "$chain" || true; done
		done
	done
}
