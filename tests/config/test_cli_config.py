"""The configuration through the program: exit codes, messages, shipped files, docs/config.md."""
import glob
import json
import os
import subprocess
import sys
import tempfile
import unittest

BINARY, SOURCE = os.environ["MR_BINARY"], os.environ["MR_SOURCE"]
SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))


def run(*args, **kw):
    return subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=SCALE * 20, **kw)


def shown(*args):
    r = run("config", "show", "--json", *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


class Files(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.dir.cleanup()

    def file(self, name, text):
        path = os.path.join(self.dir.name, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_priority(self):
        a = self.file("a.yaml", "train: {lr: 0.5, epochs: 1, patience: 1}\n")
        b = self.file("b.yaml", "train:\n  epochs: 2\n  patience: 2\n")
        # The command line wins wherever it stands.
        c = shown("--train.patience=3", "--config", a, f"--config={b}", "--train.batch", "8",
                  "--train.batch", "16")
        t = c["train"]
        self.assertEqual((t["lr"], t["epochs"], t["patience"], t["batch"]), (0.5, 2, 3, 16))
        self.assertEqual(shown("--config", b, "--config", a)["train"]["epochs"], 1)

    def test_origins(self):
        a = self.file("a.yaml", "\ntrain:\n  lr: 0.5\n")
        out = run("config", "show", "--config", a, "--run.seed=1").stdout.splitlines()
        line = {l.split(":")[0].strip(): l for l in out if l.startswith("  ")}
        self.assertTrue(line["lr"].endswith(f"# {a}:3"), line["lr"])
        self.assertTrue(line["seed"].endswith("# command line"))
        self.assertTrue(line["layers"].endswith("# default"))

    def test_show_loads_back(self):
        a = self.file("a.yaml", "run: {name: 'a \"q\" # \\ b'}\ntrain: {lr: 3e-4, topk: [5]"
                                ", valid_metric: mrr@5}\n")
        text = run("config", "show", "--config", a).stdout
        b = self.file("b.yaml", text)
        self.assertEqual(shown("--config", a), shown("--config", b))

    def refused(self, code, says, *args):
        r = run(*args)
        self.assertEqual((r.returncode, r.stdout), (code, ""), r.stderr)
        self.assertIn(says, r.stderr)
        self.assertEqual(r.stderr.count("\n"), 1, r.stderr)

    def test_exit_codes(self):
        bad = self.file("bad.yaml", "model:\n  heads: 2\n  hidden: 1.5\n")
        self.refused(2, "unknown command 'confg'; did you mean 'config'?", "confg")
        self.refused(2, "config has no option '--jsn'; did you mean '--json'?", "config",
                     "show", "--jsn")
        self.refused(2, "usage: mealrec-dist config show|doc", "config")
        self.refused(2, "config does not know 'shwo'", "config", "shwo")
        self.refused(2, "--config needs a value: --config=FILE", "config", "show", "--config=")
        self.refused(2, "--json belongs to config show", "config", "doc", "--json")
        self.refused(66, "cannot open the configuration: No such file", "config", "show",
                     "--config", os.path.join(self.dir.name, "none.yaml"))
        loop = os.path.join(self.dir.name, "loop.yaml")
        os.symlink("loop.yaml", loop)
        self.refused(74, "cannot open the configuration: Too many levels", "config", "show",
                     "--config", loop)
        self.refused(78, f"{bad}:3: model.hidden = '1.5' is not an integer; accepted: an integer, "
                     "1 <= n <= 8192", "config", "show", "--config", bad)
        self.refused(78, "command line: unknown key 'model.hiden'; did you mean 'model.hidden'?",
                     "config", "show", "--model.hiden=3")
        self.refused(78, "model.hidden = 300 (default) is not a multiple of model.heads = 7 "
                     "(command line)", "config", "show", "--model.heads=7")

    def test_empty_file(self):
        empty = self.file("empty.yaml", " \n")
        r = run("config", "show", "--config", empty)
        self.assertEqual((r.returncode, r.stderr.count(f"warning: {empty} is empty")), (0, 1))
        self.assertEqual(run("config", "show", "--config", self.file("a", "{}")).stderr, "")

    def test_full_disk(self):
        with open("/dev/full", "w") as full:
            r = subprocess.run([BINARY, "config", "doc"], stdout=full, stderr=subprocess.PIPE,
                               text=True)
        self.assertEqual(r.returncode, 74)
        self.assertIn("cannot write to standard output: No space left", r.stderr)

    def test_pipe_as_file(self):
        line = f"{BINARY} config show --config <(echo 'run: {{seed: 5}}')"
        r = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        self.assertIn("seed: 5", r.stdout)

    def test_help(self):
        for args in (["--help"], ["-h"], ["config", "--help"], ["config", "show", "-h"]):
            r = run(*args)
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            self.assertIn("usage: mealrec-dist", r.stdout)
        self.assertIn("--diffusion.schedule=WORD", run("config", "--help").stdout)
        self.assertRegex(run("--version").stdout, r"^mealrec-dist \d+\.\d+\.\d+\n$")

    def test_one_voice(self):
        """Under a launcher rank 0 speaks at once, others only if they live on."""
        env = dict(os.environ, OMPI_COMM_WORLD_RANK="3")
        r = run("confg", env=env)
        self.assertEqual(r.returncode, 2)
        self.assertIn("rank 3: error: unknown command 'confg'", r.stderr)
        self.assertEqual(run("--help", env=env).stdout, "")


class Shipped(unittest.TestCase):
    def test_documentation_is_current(self):
        with open(os.path.join(SOURCE, "docs", "config.md")) as f:
            page = f.read()
        self.assertEqual(run("config", "doc").stdout, page,
                         "docs/config.md is old: mealrec-dist config doc > docs/config.md")

    def test_files_load(self):
        paths = glob.glob(os.path.join(SOURCE, "configs", "*.yaml"))
        self.assertGreaterEqual(len(paths), 4)
        names = [shown("--config", p)["run"]["name"] for p in paths]
        self.assertEqual(len(set(names)), len(names))

    def test_ablations(self):
        """Backbone x {full, -TCD, -NPD, -TCD-NPD, backbone only}, each what its name says."""
        seen = set()
        base = os.path.join(SOURCE, "configs", "microlens-50k-tedrec.yaml")
        for path in glob.glob(os.path.join(SOURCE, "configs", "ablation", "*.yaml")):
            name = os.path.basename(path)[:-5]
            backbone, variant = name.split("-", 1)
            c = shown("--config", base, "--config", path)
            self.assertEqual(c["run"]["name"], name)
            self.assertEqual(c["data"]["path"], "data/microlens-50k.h5")
            if variant == "only":
                self.assertEqual(c["model"]["name"], backbone)
            else:
                self.assertEqual(c["model"]["name"], "mealrec")
                self.assertEqual(c["model"]["backbone"], backbone)
                parts = {"full": (True, True), "no-tcd": (False, True), "no-npd": (True, False),
                         "no-tcd-no-npd": (False, False)}[variant]
                self.assertEqual((c["tcd"]["enabled"], c["npd"]["enabled"]), parts)
            seen.add(name)
        self.assertEqual(len(seen), 15)


if __name__ == "__main__":
    sys.exit(unittest.main())
