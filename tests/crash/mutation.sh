#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# tests/crash/mutation.sh BUILD: whether the crash simulator would notice. Builds it once for each deliberate mistake
# of fs/fault.h, in BUILD/fault-N, and runs it until it fails; then once without any. Exit 0: each mistake was found,
# and the program without one passes.
#
# MUTATION_SEEDS=1000   how many seeds a mistake may take
# FAULTS="1 4"          only these;  JOBS=2  processes at a time

build=${1:?usage: mutation.sh BUILD}
seeds=${MUTATION_SEEDS:-1000}
jobs=${JOBS:-2}
cd "$(dirname "$0")/../.." || exit 1
names=$(sed -n 's/^\tFAULT_\([A-Z_]*\).*\/\*.*/\1/p' fs/fault.h)
count=$(echo "$names" | wc -l)
failed=0

make_one() # DIR FAULT
{
	${MAKE:-make} --no-print-directory -s -j"$jobs" BUILD="$1" CFLAGS="-g ${2:+-DBYRE_FAULT=$2}" \
		"$1/tests/crash/crash" >"$1.log" 2>&1 || { tail -n 20 "$1.log"; return 1; }
}

mkdir -p "$build"
for n in ${FAULTS:-$(seq "$count")}; do
	dir=$build/fault-$n
	name=$(echo "$names" | sed -n "${n}p")
	if ! make_one "$dir" "$n"; then
		echo "  FAIL  fault $n ($name): it does not build"
		failed=1
		continue
	fi
	"$dir/tests/crash/crash" --seeds "$seeds" --jobs "$jobs" --stop >"$dir.log" 2>&1
	status=$?
	first=$(sed -n 's/^FAIL seed \([0-9]*\).*/\1/p' "$dir.log" | head -n 1)
	if [ "$status" -eq 1 ] && [ -n "$first" ]; then
		echo "  ok    fault $n ($name): found, by seed $first: $(sed -n 's/^FAIL seed [^:]*: //p' "$dir.log" | head -n 1)"
	else
		echo "  FAIL  fault $n ($name): $seeds seeds do not find it"
		failed=1
	fi
done

dir=$build/fault-none
if make_one "$dir" "" && "$dir/tests/crash/crash" --seeds "$seeds" --jobs "$jobs" >"$dir.log" 2>&1; then
	echo "  ok    without any: $(tail -n 1 "$dir.log")"
else
	echo "  FAIL  without any:"
	tail -n 20 "$dir.log"
	failed=1
fi
exit $failed
