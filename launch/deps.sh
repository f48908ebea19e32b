#!/bin/bash
# Checks that the Debian packages of the build (and with --tests those of the tests) are there and
# installs the missing ones:
#   launch/deps.sh [--tests] [--no-install]
# --no-install only says what is missing. Nothing is downloaded when nothing is missing.
# Exit codes: 0 ready (or not Debian: CMake will say what it does not find), 2 usage,
# 78 packages are missing and cannot be installed.
set -u

# package, what for
build_packages='
gcc                     C compiler
libc6-dev               C library headers
cmake                   build (3.25 or newer)
ninja-build             build
pkg-config              finds the libraries
libopenmpi-dev          MPI
openmpi-bin             mpirun
libhdf5-openmpi-dev     data set files (HDF5 with parallel I/O)
libhwloc-dev            cores and GPUs of the machine
libopenblas-openmp-dev  matrix products
libyaml-dev             configuration files
libjansson-dev          JSON
libxxhash-dev           checksums
librandom123-dev        random numbers (check of our own)
libcmocka-dev           unit tests (configured with the build)
xz-utils                reads .xz data'
test_packages='
python3                 test scripts
python3-numpy           test scripts
python3-h5py            test scripts that write and read HDF5
python3-torch           reference model of the tests
shellcheck              check of the shell scripts
clang-format            check of the C sources'

with_tests=0 may_install=1
for arg in "$@"; do
    case $arg in
        --tests) with_tests=1 ;;
        --no-install) may_install=0 ;;
        -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
        *) echo "deps.sh: unknown option '$arg'; known: --tests, --no-install" >&2; exit 2 ;;
    esac
done

say() { echo "deps: $*" >&2; }

needed=$build_packages
[ "$with_tests" = 1 ] && needed+=$test_packages

if ! command -v dpkg-query >/dev/null 2>&1; then
    say "this is not Debian, so nothing is installed. Needed, with their development files:"
    say "  a C11 compiler, CMake >= 3.25, Ninja, pkg-config, an MPI, parallel HDF5, hwloc,"
    say "  OpenBLAS, libyaml, jansson, xxhash, Random123, cmocka, xz"
    if [ "$with_tests" = 1 ]; then
        say "  and for the tests python3 with numpy, h5py and torch, shellcheck, clang-format"
    fi
    say "CMake stops and names the library if one is not found."
    exit 0
fi

missing=()
while read -r package purpose; do
    [ -n "$package" ] || continue
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
    [ "$state" = installed ] && continue
    missing+=("$package")
    [ "${#missing[@]}" = 1 ] && say "missing packages:"
    printf 'deps:   %-23s %s\n' "$package" "$purpose" >&2
done <<<"$needed"
[ "${#missing[@]}" = 0 ] && exit 0

if [ "$may_install" = 0 ]; then
    say "not installed, as asked; to do it: apt-get install ${missing[*]}"
    exit 0
fi

# root, or sudo that needs no password or has a terminal to ask for it
as_root=()
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        as_root=(sudo)
    else
        say "cannot install them: neither root nor able to use sudo. Ask an administrator to run"
        say "  apt-get install ${missing[*]}"
        say "or, when the libraries are there in another way, start again with --no-install."
        exit 78
    fi
fi

apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=300 "$@" >&2
}
say "installing them with apt-get"
if ! apt update || ! apt install -y --no-install-recommends "${missing[@]}"; then
    say "apt-get failed (its messages are above); is there a network connection?"
    exit 78
fi
