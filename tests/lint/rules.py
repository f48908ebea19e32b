"""The rules for code: generators rule(files) -> (path, line, message); line 0 = whole file.
RULES maps their names to them; test_lint.py breaks each one on purpose."""
import posixpath
import re

from sources import blank, functions

MAX_FILE, MAX_FUNCTION, MAX_LINE = 600, 80, 100

# ---- includes: a layer and what it may include (docs/architecture.md) ----
EVERY = {"base", "tensor", "kernels", "dist", "data", "io", "graph", "model", "train", "cli"}
LAYERS = {
    "base": {"base"},
    "tensor": {"base", "tensor"},
    "kernels": {"base", "tensor", "kernels"},
    "dist": {"base", "tensor", "dist"},
    "data": {"base", "tensor", "data"},
    "io": {"base", "tensor", "dist", "data", "io"},
    "graph": {"base", "tensor", "kernels", "graph"},
    "model": {"base", "tensor", "kernels", "graph", "model"},
    "train": EVERY - {"cli"},
    "cli": EVERY,
}
# Headers without a library behind them that a lower layer may see all the same.
ALSO = {
    "graph": {"dist/comm.h", "dist/shard.h", "data/batch.h", "data/dataset.h"},
    "model": {"dist/comm.h", "dist/shard.h", "data/batch.h", "data/dataset.h"},
    "io": {"graph/params.h"},  # the list of parameters that a checkpoint holds
}
# Header of a library -> where it may be included.
LIBRARIES = [
    (r"mpi\.h", r"src/(dist/.*|io/.*|cli/main\.c)"),
    (r"(cuda|cublas|cufft|cusparse|curand|cooperative_groups|cub/).*",
     r"src/(kernels/cuda/.*|tensor/(device_cuda\.c|cuda_queue\.h))"),
    (r"nccl.*\.h", r"src/dist/comm_nccl\.c"),
    (r"hdf5.*\.h|H5.*\.h", r"src/io/.*"),
    (r"hwloc.*", r"src/dist/topo\.c"),
    (r"cblas\.h",
     r"src/(kernels/cpu/.*|cli/library_settings\.c|io/environment\.c|(train/|cli/cmd_)bench.*)"),
]


def includes(files):
    for f in files:
        if not (f.is_c and f.path.startswith("src/")):
            continue
        layer = f.path.split("/")[1]
        if layer not in LAYERS:
            yield f.path, 0, f"src/{layer} is not one of the layers {', '.join(sorted(LAYERS))}"
            continue
        for m in re.finditer(r'^\s*#\s*include\s*([<"])([^>"\n]+)[>"]', f.code, re.MULTILINE):
            name, line = m.group(2), f.line_of(m.start(1))
            for header, where in LIBRARIES:
                if re.fullmatch(header, name) and not re.fullmatch(where, f.path):
                    yield f.path, line, f"<{name}> may only be included in {where}"
            if m.group(1) == "<" or "/" not in name:
                continue
            target = name.split("/")[0]
            if target not in LAYERS[layer] and name not in ALSO.get(layer, ()):
                yield f.path, line, f'src/{layer} may not include "{name}": it is not a lower layer'


# ---- size and shape of the text ----
WIDE_ENDINGS = (".c", ".h", ".cc", ".cu", ".cuh", ".def", ".py", ".sh", ".sbatch", ".cmake",
                "CMakeLists.txt")


def file_size(files):
    for f in files:
        if f.is_c or f.is_shell or f.path.endswith(".py"):
            n = len(f.lines) - (f.lines[-1] == "")
            if n > MAX_FILE:
                yield f.path, 0, f"{n} lines, at most {MAX_FILE}"


def function_size(files):
    for f in files:
        if f.path.endswith((".c", ".cc", ".cu", ".h", ".cuh")):
            for name, first, last in functions(f):
                if last - first + 1 > MAX_FUNCTION:
                    yield f.path, first, (f"function {name} has {last - first + 1} lines, "
                                          f"at most {MAX_FUNCTION}")


def line_width(files):
    for f in files:
        if f.path.endswith(WIDE_ENDINGS) or f.is_shell:
            for i, line in enumerate(f.lines, 1):
                if len(line) > MAX_LINE:
                    yield f.path, i, f"{len(line)} columns, at most {MAX_LINE}"


def white_space(files):
    for f in files:
        if not (f.path.endswith(WIDE_ENDINGS + (".yaml", ".md")) or f.is_shell):
            continue
        for i, line in enumerate(f.lines, 1):
            if "\t" in line:
                yield f.path, i, "a tab; indent with spaces"
            if "\r" in line or (line != line.rstrip() and not f.path.endswith(".md")):
                yield f.path, i, "white space at the end of the line"
        if f.text and not f.text.endswith("\n"):
            yield f.path, len(f.lines), "no newline at the end of the file"


def opening_comment(files):
    for f in files:
        if f.path.startswith("src/") and f.path.endswith((".c", ".cu")):
            if not f.text.startswith("/*"):
                yield f.path, 1, "opens without a comment that says what it is and is not"


def include_guard(files):
    for f in files:
        if f.path.startswith("src/") and f.path.endswith((".h", ".cuh")):
            guard = "MR_" + re.sub(r"\W", "_", f.path[len("src/"):]).upper()
            if not re.search(rf"^#ifndef {guard}\n#define {guard}\n", f.text, re.MULTILINE):
                yield f.path, 1, f"no include guard {guard}"


# ---- calls ----
# (name, regular expression on code, files it holds for, files it does not hold for, why)
CALLS = [
    ("random", r"(?<![\w.>])(rand|srand|rand_r|random|srandom|[dlmj]rand48|srand48)\s*\(",
     r"(src|tests)/.*", None, "random numbers come from base/rng.h"),
    ("assert", r"(?<![\w.>])assert\s*\(", r"src/.*", None,
     "raise an error; static_assert is fine"),
    ("memory", r"(?<![\w.>])(malloc|calloc|realloc|strdup|strndup|aligned_alloc|posix_memalign|"
               r"asprintf|alloca)\s*\(",
     r"src/.*", r"src/base/mem\.c", "host memory comes from base/mem.h"),
    ("stdout", r"(?<![\w.>])(printf|vprintf|puts|putchar)\s*\(|\bstdout\b",
     r"src/.*", r"src/(cli/.*|train/(report|demo).*)",
     "standard output belongs to src/cli and reports"),
    ("process", r"(?<![\w.>])(system|popen)\s*\(", r"src/.*", None,
     "no shell is started with text of users"),
    ("string", r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|gets|stpcpy)\s*\(", r"(src|tests)/.*",
     None, "unbounded; use snprintf"),
    ("atomic", r"#\s*pragma\s+omp\s+atomic|_Atomic\s*\(?\s*(float|double)|"
               r"atomic(Add|Sub|Exch|CAS)\w*",
     r"src/.*", None, "sums in the order of arrival differ from run to run; "
                      "an atomic on integers says /* integer */ on its line"),
    ("thread_sum", r"#\s*pragma\s+omp\s+[^\n]*\bparallel\b[^\n]*\breduction\s*\(", r"src/.*", None,
     "the result would depend on the number of threads"),
]


def calls(files):
    for name, pattern, where, besides, why in CALLS:
        for f in files:
            if not f.is_c or not re.fullmatch(where, f.path):
                continue
            if besides and re.fullmatch(besides, f.path):
                continue
            for m in re.finditer(pattern, f.code):
                line = f.line_of(m.start())
                if name == "atomic" and "/* integer */" in f.lines[line - 1]:
                    continue
                word = re.sub(r"\s+", " ", m.group(0)).rstrip("( ")
                yield f.path, line, f"{word}: {why}"


# Memory that a library or the configuration hands out is given back with free().
GIVEN = r"json_dumps|mr_json_text|mr_config_json|open_memstream|getline"


def free_calls(files):
    for f in files:
        if not (f.is_c and f.path.startswith("src/")) or f.path == "src/base/mem.c":
            continue
        for m in re.finditer(r"(?<![\w.>])free\s*\(([^()]*)\)", f.code):
            if f.code[:m.start()].endswith(("void ", "(*")):
                continue
            name = re.findall(r"\w+", m.group(1))
            name = name[-1] if name else ""
            given = re.search(rf"\b{name}\s*=\s*({GIVEN})\b|({GIVEN})\s*\(\s*&{name}\b", f.code)
            if not given:
                yield f.path, f.line_of(m.start()), (
                    f"free({m.group(1)}): only for memory of {GIVEN.replace('|', ', ')} "
                    "taken in this file; else MR_FREE")


MACHINE_PATH = re.compile(r"(?<![\w.$}])/(work|home|root|opt|Users|mnt|data|scratch)/\w")


def machine_paths(files):
    for f in files:
        for i, line in enumerate(f.lines, 1):
            m = MACHINE_PATH.search(line)
            if m and "lint: path" not in line:
                yield f.path, i, f"a path of one machine ('{m.group(0)}...')"


# ---- every kernel and every op is tested ----
def test_code(files):
    # Words inside strings do not count as use; tests/gpu does not run without a GPU.
    return "\n".join(f.code for f in files if f.path.startswith("tests/") and f.is_c
                     and not f.path.startswith("tests/gpu/"))


def kernels_tested(files):
    text = test_code(files)
    for f in files:
        if not re.fullmatch(r"src/kernels/family_\w+\.h", f.path):
            continue
        code = blank(f.text)
        for m in re.finditer(r"(?<!\w)X\((\w+)\s*,", code):
            if not re.search(rf"(->|\.|\b[A-Z_]+\()\s*{m.group(1)}\b", text):
                yield f.path, f.line_of(m.start()), f"kernel {m.group(1)} is in no test"


def ops_tested(files):
    text = test_code(files)
    for f in files:
        if f.path != "src/graph/ops.def":
            continue
        for m in re.finditer(r"^MR_OP\((\w+)\)", blank(f.text), re.MULTILINE):
            if not re.search(rf"\b(mr_g|mr_op)_{m.group(1)}\b", text):
                yield f.path, f.line_of(m.start()), f"op {m.group(1)} is in no test"


# ---- documents ----
def links(files):
    known = {f.path for f in files}
    folders = {posixpath.dirname(p) for p in known}
    for f in files:
        if not f.path.endswith(".md"):
            continue
        for i, line in enumerate(f.lines, 1):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                if re.match(r"\w+:", target):
                    continue
                path = posixpath.normpath(posixpath.join(posixpath.dirname(f.path), target))
                if path not in known and path not in folders:
                    yield f.path, i, f"link to {target}: no such file"


RULES = {
    rule.__name__: rule
    for rule in (includes, file_size, function_size, line_width, white_space, opening_comment,
                 include_guard, calls, free_calls, machine_paths, kernels_tested, ops_tested, links)
}
