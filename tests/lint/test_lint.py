#!/usr/bin/env python3
"""The lint can fail: every rule is broken once in a small tree of files, and must say so by its
name, path and line; the tree without the plant is clean."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lint  # noqa: E402
from rules import RULES  # noqa: E402
from sources import load  # noqa: E402

CLEAN = {
    "src/base/mem.c": "/* Memory. */\n#include <stdlib.h>\n\nvoid *get(void)\n{\n"
                      "    return malloc(1);\n}\n",
    "src/base/a.h": "#ifndef MR_BASE_A_H\n#define MR_BASE_A_H\nint mr_free(int free_it);\n#endif\n",
    "src/graph/g.c": '/* A graph; printf(x) in a comment is fine. */\n#include "dist/comm.h"\n'
                     '#include "kernels/kernels.h"\n\nint f(void)\n{\n    d->free(d, "rand() {");\n'
                     "    return '{';\n}\n",
    "src/graph/ops.def": "/* MR_OP(name) */\nMR_OP(add)\n",
    "src/kernels/family_x.h": "#ifndef MR_KERNELS_FAMILY_X_H\n#define MR_KERNELS_FAMILY_X_H\n"
                              "#define MR_KERNELS_X(X) \\\n    /* X(no, kernel) */ \\\n"
                              "    X(add_fwd, (void *y))\n#endif\n",
    "src/kernels/cuda/k.cu": '/* A kernel. */\n#include <cuda_runtime.h>\nextern "C" {\n'
                             "__global__ void count(int *n)\n{\n"
                             "    atomicAdd(n, 1); /* integer */\n}\n}\n",
    "src/cli/main.c": "/* Entry. */\n#include <mpi.h>\n\nint main(void)\n{\n"
                      "    char *text = json_dumps(0);\n"
                      '    printf("x");\n    free(text);\n    return 0;\n}\n',
    "tests/t.c": "int main(void)\n{\n    return mr_g_add(1) + k->add_fwd(0);\n}\n",
    "docs/a.md": "See [main](../src/cli/main.c) and [the web](https://example.org/x).\n",
    "launch/go.sh": "#!/bin/bash\necho \"$1\"\n",
}

# rule, path, line, new content (or a pair: text to replace, replacement)
LINES_80 = "    x++;\n" * 80
PLANTS = [
    ("includes", "src/base/b.h", 3,
     '#ifndef MR_BASE_B_H\n#define MR_BASE_B_H\n#include "tensor/t.h"\n#endif\n'),
    ("includes", "src/graph/g.c", 3, ("kernels/kernels.h", "train/step.h")),
    ("includes", "src/dist/topo.c", 2, "/* T. */\n#include <hdf5.h>\n"),
    ("includes", "src/io/h.c", 2, "/* T. */\n#include <hwloc.h>\n"),
    ("includes", "src/data/d.c", 2, "/* T. */\n#include <mpi.h>\n"),
    ("includes", "src/cli/cmd.c", 2, "/* T. */\n#include <mpi.h>\n"),
    ("includes", "src/dist/comm_mpi.c", 2, "/* T. */\n#include <nccl.h>\n"),
    ("includes", "src/graph/run.c", 2, "/* T. */\n#include <cuda_runtime_api.h>\n"),
    ("includes", "src/tensor/device.c", 2, "/* T. */\n#include <cublasLt.h>\n"),
    ("includes", "src/model/m.c", 2, "/* T. */\n#include <cblas.h>\n"),
    ("includes", "src/extra/e.c", 0, "/* A folder that is no layer. */\n"),
    ("file_size", "src/base/long.c", 0, "/* Long. */\n" + "int x;\n" * 600),
    ("function_size", "src/base/f.c", 3,
     f"/* F. */\n\nint f(int x)\n{{\n{LINES_80}    return x;\n}}\n"),
    ("function_size", "src/kernels/cuda/f.cu", 3,
     f"/* F. */\nextern \"C\" {{\n__global__ void f(int x)\n{{\n{LINES_80}}}\n}}\n"),
    ("line_width", "src/base/w.c", 2, "/* W. */\nint " + "x" * 96 + ";\n"),
    ("white_space", "src/base/s.c", 2, "/* S. */\n\tint x;\n"),
    ("white_space", "src/base/s.c", 2, "/* S. */\nint x; \n"),
    ("white_space", "src/base/s.c", 1, "/* S. */"),
    ("opening_comment", "src/base/o.c", 1, "int x;\n"),
    ("include_guard", "src/base/g.h", 1, "#ifndef MR_G_H\n#define MR_G_H\n#endif\n"),
    ("machine_paths", "docs/p.md", 1, "Look in /" + "home/me/data.\n"),
    ("kernels_tested", "src/kernels/family_x.h", 5, ("X(add_fwd", "X(sub_fwd")),
    ("kernels_tested", "tests/t.c", None, ("k->add_fwd(0)", '"k->add_fwd(0)"')),
    ("ops_tested", "src/graph/ops.def", 3, ("MR_OP(add)\n", "MR_OP(add)\nMR_OP(sub)\n")),
    ("links", "docs/a.md", 1, ("main.c", "gone.c")),
    ("free_calls", "src/base/c.c", 4, "/* C. */\nvoid f(void *p)\n{\n    free(p);\n}\n"),
]
for call, line in [
        ("x = rand();", "rand"), ("srand(1);", "srand"), ("x = drand48();", "drand48"),
        ("assert(x);", "assert"), ("p = malloc(1);", "malloc"), ("p = calloc(1, 1);", "calloc"),
        ("p = realloc(p, 1);", "realloc"), ("p = strdup(q);", "strdup"),
        ('printf("x");', "printf"), ('fprintf(stdout, "x");', "stdout"), ('puts("x");', "puts"),
        ('system("x");', "system"), ('popen("x", "r");', "popen"), ("strcpy(a, b);", "strcpy"),
        ("strcat(a, b);", "strcat"), ('sprintf(a, "x");', "sprintf"), ("gets(a);", "gets"),
        ("atomicAdd(&x, 1.0f);", "atomicAdd"), ("_Atomic float y;", "_Atomic float"),
        ("#pragma omp atomic\n    x += 1;", "#pragma omp atomic"),
        ("#pragma omp parallel for reduction(+ : x)", "#pragma omp parallel for reduction")]:
    PLANTS.append(("calls", "src/train/c.c", 4,
                   f"/* C. */\nvoid f(void)\n{{\n{call}\n}}\n", line))


def write(root, tree):
    for path, text in tree.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(full, 0o755)


def found(tree):
    with tempfile.TemporaryDirectory() as root:
        write(root, tree)
        files = load(root)
        return {name: list(rule(files)) for name, rule in RULES.items()}


def check_plant(rule, path, line, plant, word=""):
    tree = dict(CLEAN)
    tree[path] = tree[path].replace(*plant) if isinstance(plant, tuple) else plant
    assert tree != CLEAN, f"{path}: nothing planted"
    result = found(tree)
    hits = [v for v in result[rule] if line is None or (v[0] == path and v[1] == line)]
    others = {k: v for k, v in result.items() if v and k != rule}
    assert hits and len(result[rule]) == 1, f"{rule} in {path}:{line}: found {result[rule]}"
    assert not others, f"{rule} in {path}: other rules too: {others}"
    assert word in hits[0][2], f"'{word}' is not in '{hits[0][2]}'"


def run(check, tree):
    with tempfile.TemporaryDirectory() as root:
        write(root, tree)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lint.py")
        done = subprocess.run([sys.executable, script, check, root], capture_output=True,
                              text=True)
        return done.returncode, done.stdout + done.stderr


def check_tools():
    """The exit codes, and the rules that other programs check."""
    style = os.path.join(os.path.dirname(lint.__file__), "..", "..", ".clang-format")
    with open(style, encoding="utf-8") as f:
        pretty = {".clang-format": f.read(), "src/base/a.c": "/* A. */\nint x;\n"}
    for check, tree, plant in [
            ("code", CLEAN, {"src/base/a.c": "int x;\n"}),
            ("format", pretty, {"src/base/a.c": "/* A. */\nint   x;\n"}),
            ("shell", CLEAN, {"launch/go.sh": "#!/bin/bash\nif true; then\n"}),
            ("shell", CLEAN, {"launch/go.sh": "#!/bin/bash\necho $1\n"}),
            ("shell", CLEAN, {".ci/run": "#!/bin/bash\ncd $1\n"})]:
        code, text = run(check, tree)
        if code == 77:
            print(f"{check}: {text.strip()}")
            continue
        assert code == 0, f"{check}: the clean tree gave {code}:\n{text}"
        code, text = run(check, {**tree, **plant})
        path = next(iter(plant))
        assert code == 1 and path in text, f"{check} with {plant}: exit {code}\n{text}"
    assert run("colour", CLEAN)[0] == 2


def main():
    clean = {k: v for k, v in found(CLEAN).items() if v}
    assert not clean, f"the clean tree is not clean: {clean}"
    for plant in PLANTS:
        check_plant(*plant)
    missing = set(RULES) - {p[0] for p in PLANTS}
    assert not missing, f"no plant for {missing}"
    check_tools()
    print(f"{len(PLANTS)} plants found")


if __name__ == "__main__":
    main()
