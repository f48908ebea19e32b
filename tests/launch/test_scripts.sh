#!/bin/bash
# shellcheck disable=SC2016 # the stand-ins are written with their $ as they are
# The commands a newcomer types, with stand-ins for the programs they call: what they install, what
# they say, and their exit codes. Nothing is installed or built here.
set -u
shopt -s lastpipe # what stands behind a pipe sets variables of this shell
source_dir=${MR_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# expect WHAT CODE [PATTERN]: exit code of the last run, and a line of its output.
expect() {
    if [ "$code" != "$2" ] || { [ -n "${3-}" ] && ! grep -qE -- "$3" "$tmp/out"; }; then
        echo "FAILED: $1: exit code $code (expected $2), expected a line with '${3-}' in:"
        cat "$tmp/out"
        failed=1
    fi
}
refuse() { # WHAT PATTERN: no such line
    if grep -qE -- "$2" "$tmp/out"; then
        echo "FAILED: $1: unexpected '$2' in:"
        cat "$tmp/out"
        failed=1
    fi
}
run() {
    env PATH="$tmp/bin:$tmp/tools" "$@" >"$tmp/out" 2>&1 </dev/null
    code=$?
}
stub() { # NAME BODY
    printf '#!/bin/bash\n%s\n' "$2" >"$tmp/bin/$1"
    chmod +x "$tmp/bin/$1"
}

# A path with nothing but what the scripts may use.
mkdir -p "$tmp/bin" "$tmp/tools" "$tmp/tree/launch" "$tmp/tree/tests"
for tool in bash env dirname basename paste sed grep awk sort head cat mkdir rm tail cut; do
    ln -s "$(command -v "$tool")" "$tmp/tools/$tool"
done

# ---- launch/deps.sh ----
deps=$source_dir/launch/deps.sh
run "$deps" --tests
expect "not Debian" 0 "OpenBLAS"
expect "not Debian, tests" 0 "h5py"
run "$deps" --all
expect "unknown option" 2 "unknown option '--all'"
run "$deps" --help
expect "help" 0 "launch/deps.sh \[--tests\]"

# dpkg-query: installed unless named in $tmp/missing; apt-get: what it was asked goes to the output.
stub dpkg-query 'for p; do :; done
if grep -qx "$p" '"$tmp/missing"'; then echo "no package" >&2; exit 1; fi
if grep -qx "$p" '"$tmp/removed"'; then printf config-files; else printf installed; fi'
stub apt-get 'echo "apt-get[$DEBIAN_FRONTEND]: $*"; [ ! -e '"$tmp/apt-fails"' ]'
stub id 'echo 0'
: >"$tmp/missing"
: >"$tmp/removed"
run "$deps" --tests
expect "nothing missing" 0
refuse "nothing missing" .
echo gcc >"$tmp/removed"
run "$deps"
expect "removed, its settings are left" 0 " install .* gcc$"
: >"$tmp/removed"
printf 'libyaml-dev\nshellcheck\n' >"$tmp/missing"
run "$deps"
expect "one missing, why" 0 "libyaml-dev +configuration files"
expect "one missing, update" 0 "apt-get\[noninteractive\]:.* update"
expect "one missing, install" 0 "apt-get\[noninteractive\]:.* install -y .*libyaml-dev$"
run "$deps" --tests
expect "missing for the tests" 0 " install .*libyaml-dev shellcheck$"
run "$deps" --tests --no-install
expect "only told" 0 "apt-get install libyaml-dev shellcheck"
refuse "only told" "apt-get\["
touch "$tmp/apt-fails"
run "$deps"
expect "apt-get fails" 78 "apt-get failed"
rm "$tmp/apt-fails"
stub id 'echo 1000'
run "$deps"
expect "neither root nor sudo" 78 "neither root nor able to use sudo"
refuse "neither root nor sudo" "apt-get\["
stub sudo '[ "$1" = -n ] && exit 1; echo "sudo: $*"; exec "$@"'
run "$deps"
expect "sudo wants a password and nobody is there" 78 "neither root nor able to use sudo"
stub sudo '[ "$1" = -n ] && exit 0; echo "sudo: $*"; exec "$@"'
run "$deps"
expect "sudo" 0 "sudo: env DEBIAN_FRONTEND=noninteractive apt-get .*install"

# ---- tests/run.sh: its sums ----
cp "$source_dir/tests/run.sh" "$tmp/tree/tests/"
printf '#!/bin/bash\necho "deps $*"\n' >"$tmp/tree/launch/deps.sh"
printf '#!/bin/bash\nexit "$(cat "%s")"\n' "$tmp/build-code" >"$tmp/tree/launch/build.sh"
chmod +x "$tmp/tree/launch/"*.sh
stub nproc 'echo 2'
# ctest: the cases of $tmp/cases as ctest 3.25 writes them; the exit code of $tmp/ctest-code.
stub ctest 'while [ "$1" != --output-junit ]; do shift; done
mkdir -p "${2%/*}"
{ echo "<testsuite>"; cat '"$tmp/cases"'; echo "</testsuite>"; } >"$2"
shift 2
echo "ctest options: $*"
exit "$(cat '"$tmp/ctest-code"')"'
one() { # NAME STATUS SECONDS [INNER]
    printf '\t<testcase name="%s" classname="%s" time="%s" status="%s">\n\t\t%s\n\t</testcase>\n' \
        "$1" "$1" "$3" "$2" "${4-}"
}
suite() { # CTEST-CODE; cases on standard input
    echo "$1" >"$tmp/ctest-code"
    cat >"$tmp/cases"
    shift
    run "$tmp/tree/tests/run.sh" "$@"
}
last_line() { # WHAT LINE
    if [ "$(tail -n 1 "$tmp/out")" != "$2" ]; then
        echo "FAILED: $1: the last line is '$(tail -n 1 "$tmp/out")', expected '$2'"
        failed=1
    fi
}
skip='<skipped message="SKIP_RETURN_CODE=77"/>'
echo 0 >"$tmp/build-code"

{ one quick run 0.5; one slow run 12.25; one away notrun 0.1 "$skip"; } | suite 0 -L unit
expect "good suite" 0 "^ +12.2  slow$"
expect "options reach ctest" 0 "^ctest options: -L unit$"
expect "test packages are asked for" 0 "^deps --tests$"
last_line "good suite" "2 passed, 0 failed, 1 skipped"
{ one quick run 0.5; one broken fail 1 '<failure message="Failed"/>'; } | suite 8
expect "failing suite" 1 "^failed +broken$"
last_line "failing suite" "1 passed, 1 failed, 0 skipped"
{ one quick run 0.5; one absent notrun 0 '<failure message="Unable to find it"/>'; } | suite 8
expect "a test that cannot start" 1 "absent"
last_line "a test that cannot start" "1 passed, 1 failed, 0 skipped"
one text run 0.5 '<system-out>&lt;testcase status="fail"/&gt; &lt;skipped</system-out>' | suite 0
last_line "the output of a test is not a test" "1 passed, 0 failed, 0 skipped"
suite 0 </dev/null
expect "no test" 1 "^0 passed"
one away notrun 0.1 "$skip" | suite 0
expect "everything skipped" 1 "^0 passed, 0 failed, 1 skipped$"
one quick run 0.5 | suite 3
expect "ctest itself failed" 1 "^1 passed"
rm -f "$tmp/tree/build/release/junit.xml"
echo 1 >"$tmp/build-code"
one quick run 0.5 | suite 0
expect "build fails" 1
refuse "build fails" passed

# ---- launch/build.sh: its options, and what becomes of a failure of CMake ----
cp "$source_dir/launch/build.sh" "$tmp/tree/launch/"
stub cmake 'echo "cmake: $*" >>'"$tmp/cmake"'
[ "$1" = --build ] || exit 0
echo "CMake says: $*"; exit "$(cat '"$tmp/build-code"')"'
build=$tmp/tree/launch/build.sh
for option in --help -h; do
    run "$build" "$option"
    expect "build.sh $option" 0 "launch/build.sh \[TARGET\]"
done
for wrong in --target -j2 ''; do
    run "$build" mealrec-dist "$wrong"
    expect "build.sh with '$wrong'" 2 "unknown option '$wrong'"
done
[ ! -e "$tmp/cmake" ] || { echo "FAILED: build.sh started CMake"; failed=1; }
for code_of_cmake in 1 7; do
    echo "$code_of_cmake" >"$tmp/build-code"
    run "$build" nothing-such
    expect "a target that does not exist" "$code_of_cmake" "^CMake says: .*--target nothing-such$"
    expect "a target that does not exist, said" "$code_of_cmake" "^build: failed"
done
echo 0 >"$tmp/build-code"
run "$build" one two
expect "two targets" 0 "^build: done"
grep -q -- '--target one --target two$' "$tmp/cmake" || { cat "$tmp/cmake"; failed=1; }

# ---- launch/demo.sh: its options ----
demo=$source_dir/launch/demo.sh
for ranks in 0 -1 two 1000 ''; do
    run "$demo" --ranks "$ranks"
    expect "--ranks '$ranks'" 2 "--ranks wants a number from 1 to 999"
done
run "$demo" --fast
expect "unknown option" 2 "unknown option '--fast'"
run "$demo" --help
expect "help" 0 "launch/demo.sh \[--ranks N\]"

# ---- launch/ablation.sh: its options, and the table of results that are there ----
ablation=$source_dir/launch/ablation.sh
run "$ablation" --sedes 1
expect "unknown option" 2 "unknown option '--sedes'"
run "$ablation" --seeds
expect "no value" 2 "--seeds wants a value"
run "$ablation" --seeds "1 two"
expect "no number" 2 "--seeds wants numbers, not 'two'"
run "$ablation" --help
expect "help" 0 "launch/ablation.sh \[--config FILE\]"
run "$ablation" --out "$tmp/none" MR_BINARY=x
expect "stray word" 2 "unknown option 'MR_BINARY=x'"
MR_BINARY=$tmp/absent run "$ablation" --out "$tmp/none"
expect "no program" 66 "no program at $tmp/absent"
stub mealrec-dist 'exit 3'
for seed in 1 2; do
    mkdir -p "$tmp/ablation/sasrec-only-seed$seed"
    printf '%s\n' '{"event":"valid","hit@10":9,"ndcg@10":9,"hit@20":9,"ndcg@20":9}' \
        '{"event":"test","epoch":3,"hit@10":0.N,"ndcg@10":0.0N,"hit@20":0.5,"ndcg@20":1e-3}' |
        sed "s/N,/$seed,/g" \
        >"$tmp/ablation/sasrec-only-seed$seed/metrics.jsonl"
done
MR_BINARY=$tmp/bin/mealrec-dist run "$ablation" --seeds "1 2" --out "$tmp/ablation" --table
expect "table" 0 '^\| sasrec-only \| 2 \| 0.1500 \| 0.0150 \| 0.5000 \| 0.0010 \| 0.0100 0.0200 \|$'
expect "table, nothing there" 0 '^\| tedrec-full \| 0 \|'
stub nproc 'echo 2'
stub mpirun 'exit 78'
MR_BINARY=$tmp/bin/mealrec-dist run "$ablation" --config x.yaml --out "$tmp/ablation"
expect "a run fails" 78 "ablation: cl4srec-full-seed2020"

[ "$failed" = 0 ] && echo "all as expected"
exit "$failed"
