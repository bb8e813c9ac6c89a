# Sourced by the scripts that boot kernels in virtual machines, from the root of the sources: which kernels, their images, what an
# initramfs is made of, and the boot. Who sources it sets `out`, the folder for what a guest says, and `work`, a temporary one.
# shellcheck shell=bash disable=SC2154
# shellcheck source=tests/support/debian.sh
source tests/support/debian.sh
# shellcheck source=tests/kernels/suites.sh
source tests/kernels/suites.sh

# Name, Debian suites, package (the newest of all the suites is taken), and the families of hooks that must be usable at least.
# The last two have scripts of their own.
KERNELS='
5.10             bullseye             linux-image-5\.10\.0-[0-9]+-cloud-amd64        fentry,kprobe,syscalls,packet
6.1              bookworm             linux-image-6\.1\.0-[0-9]+-cloud-amd64         fentry,kprobe,syscalls,packet
6.1-rt           bookworm             linux-image-6\.1\.0-[0-9]+-rt-amd64            kprobe,syscalls,packet
6.12             trixie               linux-image-6\.12\.[0-9]+.deb13-cloud-amd64    socket,fentry,kprobe,syscalls,packet
newest           sid,trixie-backports linux-binary-[0-9.]+.deb[0-9]+-cloud-amd64     socket,kprobe,syscalls,packet
5.10-without-btf -                    without-btf.sh                                 kprobe,syscalls,packet
6.1-arm64        -                    arm64.sh                                       kprobe,syscalls,packet
'
# Of a boot with everything in it, a minute on an idle machine; software emulation on a busy one takes long.
BOOT_SECONDS=900
# More words for QEMU, of the script that boots.
boot_options=()
# Nested KVM is there on many machines and works on few.
accelerator=${ACCELERATOR:-tcg}
kernels=$CACHE/kernels

# The lines of the table for some names, or all of it.
choose_kernels() {
	local name table
	table=$(grep . <<<"$KERNELS")
	if (($# == 0)); then
		echo "$table"
		return
	fi
	for name in "$@"; do awk -v name="$name" '$1 == name' <<<"$table" | grep . || die "no kernel $name in the table"; done
}

# The image of the newest package of some suites.
fetch_kernel() {
	local name=$1 pattern=$2 suites=$3 suite package
	# shellcheck disable=SC2086
	use_suites "$kernels/apt-$name" amd64 $suites
	for suite in $suites; do
		compgen -G "$kernels/apt-$name/lists/*_dists_${suite}_InRelease" >/dev/null || die "$name: no list of packages of Debian's $suite"
	done
	package=$(newest_package "^$pattern\$")
	[[ $package ]] || die "$name: none of $pattern in Debian's $suites; see the table in tests/kernels/guests.sh"
	say "$name: fetching $package"
	fetch_package "$package" "$work/package.deb"
	dpkg-deb --fsys-tarfile "$work/package.deb" | tar -xO --wildcards '*/vmlinuz*' >"$kernels/vmlinuz-$name.part"
	mv "$kernels/vmlinuz-$name.part" "$kernels/vmlinuz-$name"
	rm "$work/package.deb"
	unset APT_CONFIG
}

# The kernels that are not kept yet; of each only the image stays. A script of its own is asked each time: it knows what it keeps, and
# it is given the folder for programs of another architecture.
fetch_kernels() {
	local name suites pattern
	while read -r name suites pattern _; do
		if [[ $suites == - ]]; then
			"tests/kernels/$pattern" "$work/$pattern.root" || die "$name: tests/kernels/$pattern failed"
			[[ -s $kernels/vmlinuz-$name ]] || die "$name: tests/kernels/$pattern left no $kernels/vmlinuz-$name"
		elif [[ ! -s $kernels/vmlinuz-$name ]]; then
			fetch_kernel "$name" "$pattern" "${suites//,/ }"
		fi
	done
}

# A program under a name, and the libraries that it needs at their places of this host.
copy_program() {
	local root=$1 name=$2 program=$3 library
	rm -f "$root/bin/$name"
	install -D -m 755 "$program" "$root/bin/$name"
	ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
		[[ -e $root$library ]] || install -D -m 755 "$library" "$root$library"
	done
}

# Ends what this shell has in the background, guests too: a shell that waits for one ends without it.
end_jobs() {
	local job
	for job in $(jobs -rp); do
		pkill -P "$job" || true
		kill "$job" 2>/dev/null || true
	done
}

pack() {
	(cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2"
}

# Without cmpxchg16b, which QEMU 7.2 emulates wrongly: Linux 6.12 falls over it. And without a check that the timer ticks, which on a busy
# machine it does too late for the kernel; and without a check of interrupts that nobody wanted, for which PREEMPT_RT takes those of a
# serial port that sends much: it shut the port off.
boot() {
	local name=$1 initrd=$2 console machine
	case $name in
	*-arm64)
		console=ttyAMA0
		# shellcheck disable=SC2054
		machine=(qemu-system-aarch64 -M virt -cpu cortex-a72 -serial "file:$out/$name.console"
			-chardev "file,id=report,path=$out/$name.report" -device pci-serial,chardev=report)
		;;
	*)
		console=ttyS0
		machine=(qemu-system-x86_64 -accel "$accelerator" -cpu "max,cx16=off" -serial "file:$out/$name.console" -serial "file:$out/$name.report")
		;;
	esac
	timeout --foreground "$BOOT_SECONDS" "${machine[@]}" "${boot_options[@]}" -smp 2 -m 1024 -nodefaults -display none -no-reboot \
		-kernel "$kernels/vmlinuz-$name" -initrd "$initrd" \
		-append "console=$console quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check noirqdebug" \
		</dev/null >"$out/$name.qemu" 2>&1 || say "$name: QEMU ended with $?: $(tail -n1 "$out/$name.qemu")"
}
