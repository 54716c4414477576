#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# tests/crash/mutation.sh BUILD: whether the crash simulator would notice. Runs the programs that make check-mutation
# has built, one for each deliberate mistake of fs/core/fault.h (BUILD/fault-N/crash), until each fails; and the one
# without any. Exit 0: each mistake was found, and the program without one passes.
#
# MUTATION_SEEDS=20000  how many seeds a mistake may take (most need a handful, an unchecked log record some hundreds)
# SEEDS=1000            those that the program without any must pass
# JOBS=2                programs at a time

find_one() # NUMBER NAME: writes its line to the log folder, and says it at once
{
	"$build/fault-$1/crash" --seeds "$seeds" --jobs 1 --stop >"$build/fault-$1/log" 2>&1
	status=$?
	first=$(grep -m 1 '^FAIL seed' "$build/fault-$1/log")
	if [ "$status" -eq 1 ] && [ -n "$first" ]; then
		echo "  ok    fault $1, $2: $first"
	else
		echo "  FAIL  fault $1, $2: $seeds seeds do not find it (exit $status, $build/fault-$1/log)"
		exit 1
	fi
}

if [ "$1" = --one ]; then # BUILD SEEDS NUMBER NAME, from below
	build=$2
	seeds=$3
	find_one "$4" "$5"
	exit 0
fi

build=${1:?usage: mutation.sh BUILD}
seeds=${MUTATION_SEEDS:-20000}
jobs=${JOBS:-2}
cd "$(dirname "$0")/../.." || exit 1
failed=0
names=$(sed -n 's/^\tFAULT_\([A-Z_]*\)\( = 1\)*,.*/\1/p' fs/core/fault.h)
[ -n "$names" ] || failed=1
echo "$names" | awk '{ print NR, $0 }' | xargs -P "$jobs" -n 2 sh tests/crash/mutation.sh --one "$build" "$seeds" || failed=1

log=$build/fault-none.log
if "$build/tests/crash/crash" --seeds "${SEEDS:-1000}" --jobs "$jobs" >"$log" 2>&1; then
	echo "  ok    no fault: $(tail -n 1 "$log")"
else
	echo "  FAIL  no fault:"
	tail -n 20 "$log"
	failed=1
fi
exit $failed
