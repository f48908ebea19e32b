#!/bin/bash
# Starts mealrec-dist on this machine (or on the hosts of a hostfile) and starts it again after a
# failure:
#   launch/mpirun.sh [-n RANKS] [--hostfile FILE] [--max-restarts N] [--bind] [--] [ARGUMENT]...
# The arguments go to mealrec-dist (train --config ..., or nothing for the demo). --max-restarts:
# checkpoint.max_restarts of the configuration unless given. --bind: each rank gets the cores near
# its GPU, or its share of the cores (launch/bind.sh); without it nothing is bound.
# Before the command only the options above, and keys of the configuration: --config FILE,
# --section.key=VALUE. Another option is refused; after -- everything goes to mealrec-dist.
# A restart continues from the last checkpoint. There is none after bad input (2, 65, 66, 78), a
# stop on request (75, 130), a training that diverged (77), or when the last checkpoint is the one
# that the restart before it had already: then the failure is not one that goes away.
# SIGINT, SIGTERM or SIGUSR1 to this script: one SIGUSR1 to the ranks (checkpoint, exit code 75); a
# second one ends them at once. The exit code is that of the last mpirun (docs/exit-codes.md).
set -u

# ---- variables to change; the environment wins ----
: "${MR_RANKS:=$(nproc)}"     # ranks, one for each GPU or a few cores
: "${MR_HOSTFILE:=}"          # hosts, one a line, as mpirun reads them; empty: this machine
: "${MR_MAX_RESTARTS:=}"      # empty: checkpoint.max_restarts
: "${MR_RESTART_PAUSE:=5}"    # seconds before a restart
: "${MR_MPIRUN:=mpirun}"      # the launcher
: "${MR_BINARY:=}"            # empty: build/release/mealrec-dist beside this folder

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=launch/mpi_env.sh
. "$launch/mpi_env.sh"
say() { echo "mpirun.sh: $*" >&2; }
wrong() { say "$*"; exit 2; }
is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

bind=0
while [ $# -gt 0 ]; do
    case $1 in
        -n | -np | --hostfile | --max-restarts)
            [ $# -ge 2 ] || wrong "$1 wants a value"
            case $1 in
                --hostfile) MR_HOSTFILE=$2 ;;
                --max-restarts) MR_MAX_RESTARTS=$2 ;;
                *) MR_RANKS=$2 ;;
            esac
            shift 2
            ;;
        --bind) bind=1; shift ;;
        -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --) shift; break ;;
        --config | --config=* | --dry-run | --version) break ;;
        -*)
            case ${1%%=*} in --*.*) break ;; esac # a key of the configuration
            wrong "unknown option '$1'; known: -n RANKS, --hostfile FILE, --max-restarts N," \
                "--bind; after -- options go to mealrec-dist"
            ;;
        *) break ;;
    esac
done
if ! is_number "$MR_RANKS" || [ "$MR_RANKS" -lt 1 ]; then
    wrong "the number of ranks must be at least 1, not '$MR_RANKS'"
fi
[ -z "$MR_MAX_RESTARTS" ] || is_number "$MR_MAX_RESTARTS" ||
    wrong "--max-restarts wants a number, not '$MR_MAX_RESTARTS'"
[ -z "$MR_HOSTFILE" ] || [ -r "$MR_HOSTFILE" ] || wrong "cannot read the hostfile $MR_HOSTFILE"
[ -n "$MR_BINARY" ] || MR_BINARY=${launch%/*}/build/release/mealrec-dist
if ! command -v "$MR_BINARY" >/dev/null; then
    say "$MR_BINARY is missing; build it with launch/build.sh mealrec-dist, or set MR_BINARY"
    exit 78
fi

# ---- what the configuration says: folder of the run, restarts ----
# A command word and switches are not part of the configuration.
settings=() values=''
take=0
for argument; do
    if [ "$take" = 1 ]; then
        settings+=("$argument")
        take=0
        continue
    fi
    case $argument in
        --config) settings+=("$argument"); take=1 ;;
        --config=* | --*.*=*) settings+=("$argument") ;;
        --*.*) settings+=("$argument"); take=1 ;;
    esac
done
# Refused settings are mealrec-dist's to explain, below; here they only mean "unknown".
values=$("$MR_BINARY" config show "${settings[@]}" 2>/dev/null) || values=''
# value SECTION KEY: the value in the YAML that `config show` prints.
value() {
    awk -v section="$1:" -v key="$2:" '
        /^[a-z]/ { here = $1 == section }
        here && $1 == key { sub(/^[^:]*: */, ""); sub(/ +#.*/, ""); gsub(/"/, ""); print; exit }
    ' <<<"$values"
}
run_dir=$(value run dir) run_name=$(value run name)
latest="${run_dir:-runs}/${run_name:-demo}/checkpoints/latest"
[ -n "$MR_MAX_RESTARTS" ] || MR_MAX_RESTARTS=$(value checkpoint max_restarts)
is_number "$MR_MAX_RESTARTS" || MR_MAX_RESTARTS=0
last_checkpoint() { cat "$latest" 2>/dev/null || echo none; }

# ---- one start ----
mr_mpi_env "$MR_RANKS"
command=("$MR_MPIRUN" -np "$MR_RANKS")
if [ -n "$MR_HOSTFILE" ]; then
    command+=(--hostfile "$MR_HOSTFILE" --bind-to none)
else
    command+=("${mr_mpirun_args[@]}")
fi
[ "$bind" = 1 ] && command+=("$launch/bind.sh")
command+=("$MR_BINARY" "$@")

child='' signals=0 interrupted=0
on_signal() {
    interrupted=1
    signals=$((signals + 1))
    [ -n "$child" ] || return
    # mpirun passes USR1 on to the ranks; TERM makes it end them.
    if [ "$signals" = 1 ]; then kill -USR1 "$child"; else kill -TERM "$child"; fi
} 2>/dev/null
trap on_signal INT TERM USR1
said=$(mktemp) || exit 73 # what mpirun and the ranks write to stderr
trap 'mr_shm_remove; rm -f "$said"' EXIT

run_once() {
    [ -n "$MR_HOSTFILE" ] || mr_shm_make # other hosts do not have the folder
    # A group of its own: Ctrl-C on a terminal must reach the ranks once, through on_signal.
    set -m
    "${command[@]}" </dev/null 2> >(trap '' INT TERM && exec tee "$said" >&2) &
    child=$!
    set +m
    code=127
    while :; do
        interrupted=0
        wait "$child"
        local this=$?
        [ "$this" = 127 ] || code=$this
        [ "$interrupted" = 0 ] && break
    done
    child=''
    mr_shm_remove
    if [ "$code" = 139 ]; then launcher_crashed; fi
}

# PMIx 4.2 now and then crashes when mpirun ends, after mpirun has told how the job ended.
launcher_crashed() {
    local told
    sleep 0.3 # tee may still be writing
    told=$(sed -n 's/^ *Exit code: *\([0-9]\{1,3\}\)$/\1/p' "$said" | tail -n 1)
    [ -n "$told" ] || return 0 # a rank crashed
    say "mpirun itself crashed (139) after the job had ended with exit code $told"
    code=$told
}

restarts=0 before=''
while :; do
    say "start $((restarts + 1)): ${command[*]}"
    run_once
    case $code in
        0) exit 0 ;;
        2 | 65 | 66 | 78) say "exit code $code: bad input, no restart"; exit "$code" ;;
        75 | 130) say "exit code $code: stopped on request"; exit "$code" ;;
        77) say "exit code 77: training diverged, a restart would diverge again"; exit 77 ;;
    esac
    if [ "$signals" -gt 0 ]; then
        say "exit code $code after a signal to this script: no restart"
        exit "$code"
    fi
    now=$(last_checkpoint)
    if [ "$restarts" -ge "$MR_MAX_RESTARTS" ]; then
        say "exit code $code, last checkpoint: $now; $restarts of $MR_MAX_RESTARTS restarts used"
        exit "$code"
    fi
    if [ "$restarts" -gt 0 ] && [ "$now" = "$before" ]; then
        say "exit code $code: no progress, the last checkpoint is still $now after a restart"
        exit "$code"
    fi
    before=$now
    restarts=$((restarts + 1))
    say "exit code $code: restart $restarts of $MR_MAX_RESTARTS from checkpoint: $now"
    sleep "$MR_RESTART_PAUSE" &
    wait $!
    [ "$signals" = 0 ] || exit "$code"
done
