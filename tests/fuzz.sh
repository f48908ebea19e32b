#!/bin/bash
# Fuzzes every reader of outside data:
# tests/fuzz.sh [--inputs N] [--seconds S] [--clang] [NAME]...
#   --inputs N    mutated inputs for each target (10000)
#   --seconds S   time for each target (no limit); with --clang also the way to end (60)
#   --clang       libFuzzer, guided by coverage, instead of our driver; not for `args`
#   NAME          h5 npy inter pairs safetensors manifest yaml glove env args record (all)
# Builds with AddressSanitizer and UndefinedBehaviorSanitizer in build/debug (build/fuzz for clang).
# One line with the counts for each target; exit code 1 when one of them found something.
set -u
cd "$(dirname "$0")/.." || exit 1

inputs=10000 seconds=0 clang=0 names=()
while [ $# -gt 0 ]; do
    case $1 in
        --inputs) inputs=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --clang) clang=1 ;;
        -h | --help) sed -n '2,9s/^# //p' "$0" && exit 0 ;;
        -*) echo "unknown option $1" && exit 2 ;;
        *) names+=("$1") ;;
    esac
    shift
done
all=(h5 npy inter pairs safetensors manifest yaml glove env args record)
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")
failed=0

with_driver() {
    local log
    cmake --preset debug >/dev/null || exit 1
    cmake --build --preset debug --target "${names[@]/#/fuzz_}" >/dev/null || exit 1
    for name in "${names[@]}"; do
        log=$(mktemp)
        local options=(--inputs "$inputs" --seconds "$seconds")
        [ -d "tests/fuzz/corpus/$name" ] && options+=("tests/fuzz/corpus/$name")
        if build/debug/tests/fuzz_"$name" "${options[@]}" >"$log" 2>&1; then
            grep findings "$log"
        else
            cat "$log"
            failed=1
        fi
        rm -f "$log"
    done
}

# The library is compiled by hand: only what the readers need, instrumented, without OpenMP.
with_clang() {
    command -v clang >/dev/null || { echo "clang is not installed" && exit 77; }
    [ "$seconds" = 0 ] && seconds=60
    local flags libs dir=build/fuzz sources objects=()
    mkdir -p $dir
    read -ra flags <<<"-g -O1 -std=gnu11 -w -Isrc -DMR_VERSION=\"0\" $(pkg-config --cflags \
        yaml-0.1 jansson libxxhash hwloc hdf5-openmpi ompi-c)"
    read -ra libs <<<"-lm -lpthread $(pkg-config --libs yaml-0.1 jansson libxxhash hwloc \
        hdf5-openmpi ompi-c)"
    sources=(src/base/*.c src/tensor/device.c src/tensor/device_cpu.c src/tensor/device_guard.c
        src/data/*.c src/io/h5_*.c
        src/io/file.c src/io/json_build.c src/io/manifest.c src/io/safetensors_*.c
        src/io/checkpoint_dir.c src/io/tfevents.c src/train/record.c src/dist/comm.c
        src/dist/comm_self.c src/dist/comm_mpi.c src/dist/comm_traced.c src/dist/watchdog.c
        src/dist/ring.c src/dist/hang.c src/dist/topo.c)
    flags+=("-fsanitize=address,undefined" -fno-sanitize-recover=undefined)
    for file in "${sources[@]}"; do
        local object=$dir/${file//\//_}.o
        objects+=("$object")
        [ "$object" -nt "$file" ] ||
            clang -fsanitize=fuzzer-no-link "${flags[@]}" -c -o "$object" "$file" || exit 1
    done
    for name in "${names[@]}"; do
        local own=("tests/fuzz/fuzz_$name.c") define=()
        case $name in
            args) echo "args: not with clang" && continue ;;
            h5) own+=(tests/fuzz/fuzz_h5_recipe.c) ;;
            inter) own=(tests/fuzz/fuzz_log.c) ;;
            pairs) own=(tests/fuzz/fuzz_log.c) define=(-DFUZZ_PAIRS) ;;
        esac
        clang -fsanitize=fuzzer "${flags[@]}" "${define[@]}" -o $dir/fuzz_"$name" "${own[@]}" \
            tests/fuzz/support.c "${objects[@]}" "${libs[@]}" || exit 1
        mkdir -p $dir/corpus/"$name"
        cmake --build --preset debug --target fuzz_"$name" >/dev/null || exit 1
        build/debug/tests/fuzz_"$name" --write-seeds $dir/corpus/"$name" || exit 1
        [ -d "tests/fuzz/corpus/$name" ] && cp "tests/fuzz/corpus/$name"/* $dir/corpus/"$name"
        if $dir/fuzz_"$name" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 \
            -print_final_stats=1 -artifact_prefix=$dir/"$name"- $dir/corpus/"$name" \
            >$dir/"$name".log 2>&1; then
            echo "$name: $(grep -o 'number_of_executed_units: [0-9]*' $dir/"$name".log), 0 findings"
        else
            tail -40 $dir/"$name".log
            failed=1
        fi
    done
}

if [ $clang = 1 ]; then with_clang; else with_driver; fi
exit $failed
