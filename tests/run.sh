#!/bin/bash
# Builds everything and runs the tests:   tests/run.sh [--no-install] [option of ctest]...
#   tests/run.sh -L dist       tests with a label (unit, kernel, op, dist, cli, lint, ...)
#   tests/run.sh -R config     tests whose name matches
# Missing Debian packages are installed first (launch/deps.sh).
# The last line is "N passed, N failed, N skipped". Exit code 0 only when something passed and
# nothing failed.
set -u
cd "$(dirname "$0")/.." || exit 1

deps=(--tests) options=()
for arg in "$@"; do
    case $arg in
        --no-install) deps+=(--no-install) ;;
        -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
        *) options+=("$arg") ;;
    esac
done
launch/deps.sh "${deps[@]}" || exit
launch/build.sh || exit

junit=$PWD/build/release/junit.xml
rm -f "$junit"
started=$SECONDS
ctest --test-dir build/release -j "$(nproc)" --output-on-failure --timeout 300 \
    --output-junit "$junit" "${options[@]}"
code=$?

# One testcase element a test: name, seconds and verdict, tab separated.
test_case='.*<testcase name="\([^"]*\)".* time="\([^"]*\)" status="\([^"]*\)".*'
cases=$(sed -n "s/^$test_case\$/\1\t\2\t\3/p" "$junit" 2>/dev/null)
# ctest calls a skipped test "notrun", like one that could not be started; only the former has the
# element <skipped message="SKIP_RETURN_CODE=77"/>.
skipped=$(grep -c '<skipped message="SKIP_' "$junit" 2>/dev/null)
passed=$(grep -c $'\trun$' <<<"$cases")
total=$(grep -c . <<<"$cases")
failed=$((total - passed - skipped))

if [ "$total" -gt 0 ]; then
    echo
    echo "slowest tests (seconds):"
    sort -t $'\t' -k2,2gr <<<"$cases" | head -n 10 | awk -F '\t' '{printf "%8.1f  %s\n", $2, $1}'
    awk -F '\t' '$3 != "run" {print ($3 == "fail" ? "failed   " : "not run  ") $1}' <<<"$cases"
    echo "$((SECONDS - started)) s in all; details: build/release/Testing/Temporary/LastTest.log"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$code" = 0 ] && [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
