# shellcheck shell=bash disable=SC2034,SC2154 # variables that the sourcing script sets or reads
# Sourced by the tests of the scripts in launch/: a folder for stand-ins of the programs they call,
# and what is expected of a run, whose output is $tmp/out and whose exit code is $code.
source_dir=${MR_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
fail() { echo "FAILED: $*"; cat "$tmp/out"; failed=1; }
expect() { # WHAT CODE [PATTERN [COUNT]]: exit code; lines with the pattern (default: at least one)
    [ "$code" = "$2" ] || fail "$1: exit code $code, expected $2"
    [ -n "${3-}" ] || return
    local n
    n=$(grep -cE -- "$3" "$tmp/out")
    if [ -n "${4-}" ]; then
        [ "$n" = "$4" ] || fail "$1: $n lines with '$3', expected $4"
    else
        [ "$n" -ge 1 ] || fail "$1: no line with '$3'"
    fi
}
stub() { # NAME BODY
    printf '#!/bin/bash\n%s\n' "$2" >"$tmp/bin/$1"
    chmod +x "$tmp/bin/$1"
}
mkdir -p "$tmp/bin"
