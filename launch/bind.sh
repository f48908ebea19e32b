#!/bin/bash
# Binds one rank, then becomes its program:   mpirun ... launch/bind.sh PROGRAM [ARGUMENT]...
# (or srun ... launch/bind.sh PROGRAM). With GPUs: the cores near GPU number (local rank modulo
# GPUs), shared with the ranks whose GPUs hang on the same cores; without: an equal contiguous share
# of the cores. A rank that the launcher has already bound is left alone. MR_BIND=none: no binding.
# Memory follows by first touch. OMP_NUM_THREADS becomes the number of cores unless it is set.
set -u
[ $# -ge 1 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
case $1 in
    -h | --help) sed -n '2,6s/^# //p' "$0"; exit 0 ;;
    -*)
        echo "bind.sh: unknown option '$1'; the first word is the program to start" >&2
        exit 2
        ;;
esac

: "${MR_BIND:=auto}"
: "${MR_SYS:=/sys}" "${MR_PROC:=/proc}" # for tests

# "0-3,8" -> one number a line
expand() {
    tr ',' '\n' <<<"$1" | awk -F- 'NF == 1 && $1 != "" { print $1 }
                                   NF == 2 { for (i = $1; i <= $2; i++) print i }'
}
list() { paste -sd, -; }
count() { if [ -z "$1" ]; then echo 0; else tr ',' '\n' <<<"$1" | wc -l; fi; }
# part LIST INDEX OF: contiguous part INDEX (0-based) of OF parts; never empty
part() {
    local n lo hi
    n=$(count "$1")
    lo=$((n * $2 / $3)) hi=$((n * ($2 + 1) / $3))
    [ "$hi" -gt "$lo" ] || { lo=$(($2 % n)); hi=$((lo + 1)); }
    tr ',' '\n' <<<"$1" | sed -n "$((lo + 1)),${hi}p" | list
}

# mpirun inside a SLURM job: SLURM_LOCALID is 0 on every rank, so mpirun's own word comes first.
rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}
size=${OMPI_COMM_WORLD_LOCAL_SIZE:-${SLURM_STEP_TASKS_PER_NODE:-${SLURM_NTASKS_PER_NODE:-1}}}
size=${size%%[!0-9]*} # "8(x2)" -> 8
[ "${size:-0}" -ge 1 ] || size=1

online=$(expand "$(cat "$MR_SYS/devices/system/cpu/online" 2>/dev/null)" | list)
allowed=$(expand "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$MR_PROC/self/status")" | list)
job=${MR_JOB_CPUS:-} # hardware threads of the job on this node, when that is fewer than online
[ -n "$job" ] && job=$(expand "$job" | list)

choose() { # prints the list, or nothing: leave the rank alone
    [ "$MR_BIND" = none ] && return
    [ "$size" -gt 1 ] || return
    [ -n "$allowed" ] && [ "$allowed" = "${job:-$online}" ] || return # bound by the launcher
    local gpus=() gpu near='' mates=0 place=0 i id other
    if command -v nvidia-smi >/dev/null; then
        mapfile -t gpus < <(nvidia-smi --query-gpu=pci.bus_id --format=csv,noheader 2>/dev/null)
    fi
    if [ "${#gpus[@]}" -gt 0 ]; then
        cpus_of() { # nvidia-smi writes 8 digits of domain in capitals, the kernel 4 small ones
            id=$(tr '[:upper:]' '[:lower:]' <<<"${1: -12}")
            cat "$MR_SYS/bus/pci/devices/$id/local_cpulist" 2>/dev/null
        }
        gpu=$((rank % ${#gpus[@]}))
        near=$(cpus_of "${gpus[gpu]}")
        for ((i = 0; i < size; i++)); do
            other=$(cpus_of "${gpus[i % ${#gpus[@]}]}")
            [ "$other" = "$near" ] || continue
            [ "$i" -lt "$rank" ] && place=$((place + 1))
            mates=$((mates + 1))
        done
        near=$(comm -12 <(expand "$near" | sort) <(tr ',' '\n' <<<"$allowed" | sort) |
            sort -n | list)
    fi
    if [ -n "$near" ]; then part "$near" "$place" "$mates"; else part "$allowed" "$rank" "$size"; fi
}
cores=$(choose)
if [ -z "$cores" ]; then exec "$@"; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(count "$cores")}
echo "bind.sh: rank $rank of $size on $(uname -n): hardware threads $cores" >&2
exec taskset -c "$cores" "$@"
