#!/bin/bash
# The tests under AddressSanitizer and UndefinedBehaviorSanitizer, with their limits of time times a
# factor:   tests/sanitize.sh [--scale N] [CTEST OPTION]...
#   --scale N   the factor (MR_TIME_SCALE of tests/CMakeLists.txt, 8); more on a loaded machine
# Builds in build/debug. A finding ends a test, so it fails. In tests that are programs, not
# scripts, a leak is a finding too, but one of MPI (tests/lsan.supp). The last line has the counts;
# exit code 0 only when some tests passed and none failed.
set -u
cd "$(dirname "$0")/.." || exit 1

scale=8
case ${1-} in
    -h | --help) sed -n '2,7s/^# //p' "$0" && exit 0 ;;
    --scale) scale=${2:?--scale wants a number} && shift 2 ;;
esac
cmake --preset debug -DMR_TIME_SCALE="$scale" >/dev/null &&
    cmake --build --preset debug >/dev/null || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ctest --test-dir build/debug --output-on-failure "$@" 2>&1 | tee "$log"
count() { grep -cE "^ *[0-9]+/[0-9]+ Test +#[0-9]+: .*$1 +[0-9.]+ sec" "$log"; }
passed=$(count ' Passed') skipped=$(count '\*\*\*Skipped') all=$(count '')
failed=$((all - passed - skipped))
echo "under sanitizers: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
