#!/bin/bash
# soak.py in a private mount name space, so that it may mount a small tmpfs; 77 where that is not
# allowed.   in_mount.sh PART [--count N]
unshare -Urm true 2>/dev/null || { echo "no private mounts here" && exit 77; }
exec unshare -Urm /usr/bin/python3 "$(dirname "$0")/soak.py" "$@"
