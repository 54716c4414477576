# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=sh
#
# Sourced by deploy/check and deploy/quickstart: Debian's packages that each needs, and how they are installed.

BUILD_PACKAGES="gcc libc6-dev make pkg-config libevent-dev libssl-dev protobuf-c-compiler libprotobuf-c-dev
	liburing-dev libisal-dev libbsd-dev libjansson-dev libsystemd-dev libinih-dev libblkid-dev"

QUICKSTART_PACKAGES="e2fsprogs nbd-client qemu-utils libnbd-bin"

TEST_PACKAGES="libcmocka-dev python3 python3-libnbd python3-pytest python3-pytest-xdist libnbd-bin fuse3 mount nbdkit qemu-utils fio e2fsprogs xfsprogs
	clang clang-format clang-tidy libclang-rt-14-dev git g++"

# Those that `make deb` and its test need (and promtool, without which one end-to-end test is skipped).
PACKAGE_PACKAGES="debhelper debootstrap lintian bash-completion zsh systemd prometheus"

# The VM tests are skipped where these cannot be had.
VM_PACKAGES="qemu-system-x86 nbd-client xfsprogs e2fsprogs busybox-static"

missing_packages() # NAME...: those that are not installed
{
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
	done
}

# Installs what is missing, quietly; one more try after a moment when the network hiccups.
# Returns nonzero, with a word on standard error, when something is missing afterwards.
install_packages() # NAME...
{
	want=$(missing_packages "$@")
	[ -n "$want" ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		echo "missing packages, install them as root: apt-get install $want" >&2
		return 1
	fi
	echo "installing: $want"
	for try in 1 2; do
		# shellcheck disable=SC2086
		if DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$APT_LOG" 2>&1 </dev/null &&
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
				-o Dpkg::Use-Pty=0 $want >>"$APT_LOG" 2>&1 </dev/null; then
			return 0
		fi
		[ "$try" = 2 ] || sleep 5
	done
	echo "apt-get could not install: $want" >&2
	tail -n 5 "$APT_LOG" >&2
	return 1
}
