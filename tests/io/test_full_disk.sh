#!/bin/bash
# A disk that really is full, at 30 fill levels: the save fails with exit code 74 and says so, the
# older checkpoint still loads, nothing is left behind; with room again the next save works.
# usage: test_full_disk.sh WRITER      (skips where a private tmpfs cannot be mounted)
set -u
if [ "${2:-}" != inside ]; then
    unshare -Urm mount -t tmpfs none /mnt 2>/dev/null || { echo "no private mounts here"; exit 77; }
    exec unshare -Urm bash "$0" "$1" inside
fi
writer=$1
disk=/mnt
mount -t tmpfs -o size=4m none $disk || exit 77
fail() { echo "FAILED at $free free bytes: $1"; exit 1; }
mkdir $disk/c
free=4194304
"$writer" $disk/c save 10 2>/dev/null || fail "first save"
size=$(du -sb $disk/c/step-000000010 | cut -f1)
for i in $(seq 0 29); do
    rm -f $disk/filler
    free=$((size * i / 30))
    room=$(df -B1 --output=avail $disk | tail -1)
    head -c $((room - free)) /dev/zero >$disk/filler
    said=$("$writer" $disk/c save 20 2>&1)
    code=$?
    [ $code -eq 74 ] || fail "exit code $code: $said"
    case $said in *"$disk/c"*) ;; *) fail "the path is not named: $said" ;; esac
    case $said in *"No space left on device"*) ;; *) fail "the reason is not named: $said" ;; esac
    left=$(find $disk/c -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')
    [ "$left" = "latest step-000000010 " ] || fail "left behind: $left"
    "$writer" $disk/c load 10 2>/dev/null || fail "the older checkpoint does not load"
done
rm $disk/filler
"$writer" $disk/c save 20 2>/dev/null || fail "save with room again"
"$writer" $disk/c load 20 2>/dev/null || fail "load with room again"
echo "30 fill levels"
