"""What the lint rules read: the repository's files, C text without comments, functions of C."""
import os
import re

TOP_FILES = ("CMakeLists.txt", "README.md", ".clang-format")
TOP_FOLDERS = ("src", "tests", "launch", "configs", "docs", "tools", ".ci")
C_ENDINGS = (".c", ".h", ".cu", ".cuh", ".cc")
SKIPPED_FOLDERS = ("__pycache__", "build")


class File:
    """One file: path relative to the repository (with /), text, lines."""

    def __init__(self, root, path):
        self.path = path
        with open(os.path.join(root, path), "rb") as f:
            self.raw = f.read()
        self.text = self.raw.decode("utf-8", "replace")
        self.lines = self.text.split("\n")
        self._code = None

    @property
    def is_c(self):
        return self.path.endswith(C_ENDINGS)

    @property
    def is_shell(self):
        return self.path.endswith((".sh", ".sbatch")) or self.text.startswith(
            ("#!/bin/bash", "#!/bin/sh", "#!/usr/bin/env bash"))

    @property
    def is_text(self):
        return b"\0" not in self.raw

    @property
    def code(self):
        """The text with comments and the content of string literals blanked, lines kept."""
        if self._code is None:
            self._code = blank(self.text)
        return self._code

    def line_of(self, offset):
        return self.text.count("\n", 0, offset) + 1


TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include\b[^\n]*', re.MULTILINE)


def blank(text, keep_strings=False):
    """C text without comments (and without what is inside strings), every character in its place.
    The line of an #include keeps its name."""
    includes = {m.start(): m.end() for m in INCLUDE.finditer(text)}

    def empty(match):
        token = match.group(0)
        start = text.rfind("\n", 0, match.start()) + 1
        if token[0] in "\"'":
            if keep_strings or start in includes:
                return token
            return token[0] + re.sub(r"[^\n]", " ", token[1:-1]) + token[-1]
        return re.sub(r"[^\n]", " ", token)

    return TOKEN.sub(empty, text)


def load(root):
    """Every text file of the repository, sorted by path."""
    paths = [p for p in TOP_FILES if os.path.isfile(os.path.join(root, p))]
    for top in TOP_FOLDERS:
        for folder, folders, names in os.walk(os.path.join(root, top)):
            folders[:] = sorted(d for d in folders if d not in SKIPPED_FOLDERS)
            for name in names:
                full = os.path.join(folder, name)
                if os.path.isfile(full) and not os.path.islink(full):
                    paths.append(os.path.relpath(full, root).replace(os.sep, "/"))
    files = [File(root, p) for p in sorted(paths)]
    return [f for f in files if f.is_text]


DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)


def functions(file):
    """(name, first line, last line) of every function body of a C file, by matching braces."""
    code = DIRECTIVE.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), file.code)
    found = []
    depth, start, name, last_end = 0, 0, "", 0
    transparent = []  # extern "C" { and namespace { do not count as depth
    for m in re.finditer(r"[{};]", code):
        c, at = m.group(0), m.start()
        if c == "{":
            if depth == 0:
                head = code[last_end:at]
                if re.search(r'(extern\s*"[^"]*"|namespace\s*\w*)\s*$', head):
                    transparent.append(at)
                    last_end = at + 1
                    continue
                is_function = re.search(r"\)\s*(__\w+__\s*\(.*\)\s*|const\s*)*$", head, re.DOTALL)
                names = re.findall(r"(\w+)\s*\(", head)
                name = names[0] if is_function and names else ""
                start = last_end + len(head) - len(head.lstrip())
            depth += 1
        elif c == "}":
            if depth == 0 and transparent:
                transparent.pop()
                last_end = at + 1
                continue
            depth = max(0, depth - 1)
            if depth == 0:
                if name:
                    found.append((name, file.line_of(start), file.line_of(at)))
                    name = ""
                last_end = at + 1
        elif depth == 0:
            last_end = at + 1
    return found
