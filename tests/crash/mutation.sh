#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# tests/crash/mutation.sh BUILD: whether the crash simulator would notice. Runs the programs that make check-mutation
# has built, one for each deliberate mistake of fs/core/fault.h (BUILD/fault-N/crash), until each fails; and the one
# without any. Exit 0: each mistake was found, and the program without one passes.
#
# MUTATION_SEEDS=20000  how many seeds a mistake may take (most need a handful, an unchecked log record some hundreds)
# SEEDS=1000            those that the program without any must pass;  JOBS=2  processes at a time

build=${1:?usage: mutation.sh BUILD}
seeds=${MUTATION_SEEDS:-20000}
jobs=${JOBS:-2}
cd "$(dirname "$0")/../.." || exit 1
n=0
failed=0
for name in $(sed -n 's/^\tFAULT_\([A-Z_]*\)\( = 1\)*,.*/\1/p' fs/core/fault.h); do
	n=$((n + 1))
	log=$build/fault-$n/log
	"$build/fault-$n/crash" --seeds "$seeds" --jobs "$jobs" --stop >"$log" 2>&1
	status=$?
	first=$(grep -m 1 '^FAIL seed' "$log")
	if [ "$status" -eq 1 ] && [ -n "$first" ]; then
		echo "  ok    fault $n, $name: $first"
	else
		echo "  FAIL  fault $n, $name: $seeds seeds do not find it (exit $status, $log)"
		failed=1
	fi
done
[ "$n" -gt 0 ] || failed=1

log=$build/fault-none.log
if "$build/tests/crash/crash" --seeds "${SEEDS:-1000}" --jobs "$jobs" >"$log" 2>&1; then
	echo "  ok    no fault: $(tail -n 1 "$log")"
else
	echo "  FAIL  no fault:"
	tail -n 20 "$log"
	failed=1
fi
exit $failed
