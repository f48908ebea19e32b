#!/usr/bin/env python3
"""Rules of docs/style.md that a program can check.
  lint.py code [ROOT]      the rules of rules.py
  lint.py format [ROOT]    clang-format, with .clang-format
  lint.py shell [ROOT]     bash -n and shellcheck
Prints path:line: rule: message.
Exit codes: 0 clean, 1 violations, 2 usage, 77 tool not installed."""
import os
import shutil
import subprocess
import sys

from rules import RULES
from sources import load


def code(root):
    files = load(root)
    for name, rule in RULES.items():
        for path, line, message in rule(files):
            yield f"{path}:{line}: {name}: {message}"


def format_(root):
    """Other versions of clang-format lay out a few constructs differently, so only 14 decides."""
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        sys.exit(skipped("clang-format is not installed"))
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if "version 14." not in version:
        sys.exit(skipped(f"needs clang-format 14, this is {version.strip()}"))
    for f in load(root):
        if not f.is_c:
            continue
        name = "--assume-filename=" + os.path.join(root, f.path)
        run = subprocess.run([tool, "--style=file", name], input=f.raw, capture_output=True)
        if run.returncode != 0:
            yield f"{f.path}:0: format: clang-format: {run.stderr.decode().strip()}"
        elif run.stdout != f.raw:
            ours, theirs = f.raw.split(b"\n"), run.stdout.split(b"\n")
            same = [a == b for a, b in zip(ours, theirs)]
            line = same.index(False) + 1 if False in same else min(len(ours), len(theirs))
            yield f"{f.path}:{line}: format: run clang-format -i on it"


def shell(root):
    scripts = [f for f in load(root) if f.is_shell]
    for f in scripts:
        run = subprocess.run(["bash", "-n", os.path.join(root, f.path)], capture_output=True,
                             text=True)
        if run.returncode != 0:
            yield f"{f.path}:0: bash -n: {run.stderr.strip()}"
        if f.text.startswith("#!") and not os.access(os.path.join(root, f.path), os.X_OK):
            if not f.path.startswith("tests/") or f.path == "tests/run.sh":
                yield f"{f.path}:0: shell: not executable"
    if not shutil.which("shellcheck"):
        sys.exit(skipped("shellcheck is not installed; bash -n was clean"))
    run = subprocess.run(["shellcheck", "-x", "-f", "gcc", *(f.path for f in scripts)], cwd=root,
                         capture_output=True, text=True)
    yield from run.stdout.splitlines()
    if run.returncode not in (0, 1):
        yield f"shellcheck: {run.stderr.strip()}"


def skipped(why):
    print(f"skipped: {why}")
    return 77


def main():
    checks = {"code": code, "format": format_, "shell": shell}
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in checks:
        print(__doc__, file=sys.stderr)
        return 2
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[2] if len(sys.argv) == 3 else os.path.join(here, "..", "..")
    found = list(checks[sys.argv[1]](os.path.abspath(root)))
    for text in found:
        print(text)
    print(f"{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
