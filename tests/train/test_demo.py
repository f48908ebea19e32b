#!/usr/bin/env python3
"""The demo: its table (MealRec above its backbone, the backbone above popularity), that
configs/demo.yaml says the same as the settings built into the program, and the warning of encoded
frames that become all alike."""
import os
import re
import subprocess
import sys
import tempfile

binary, source = os.environ["MR_BINARY"], os.environ["MR_SOURCE"]


def ndcg10(table, name):
    line = [row for row in table.splitlines() if row.startswith(name)]
    assert len(line) == 1, "no row '%s' in\n%s" % (name, table)
    return float(re.findall(r"[0-9]\.[0-9]{4}", line[0])[1])


with tempfile.TemporaryDirectory() as folder:
    run = subprocess.run(["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none", binary],
                         cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "SYNTHETIC" in run.stdout
    popularity = ndcg10(run.stdout, "popularity")
    backbone = ndcg10(run.stdout, "SASRec (the backbone alone)")
    mealrec = ndcg10(run.stdout, "MealRec on SASRec")
    print("NDCG@10: popularity %.4f, backbone %.4f, MealRec %.4f" % (popularity, backbone, mealrec))
    assert mealrec > 1.5 * backbone > 1.5 * popularity > 0
    for detach, warnings in (("false", 1), ("true", 0)):
        run = subprocess.run([binary, "train", "--train.epochs=2", "--config",
                              os.path.join(source, "configs", "demo.yaml"),
                              "--tcd.detach_target=" + detach, "--run.name=detach-" + detach],
                             cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             check=True)
        found = run.stderr.count("the encoded frames z0 hardly differ")
        assert found == warnings, "detach_target %s: %d warnings\n%s" % (detach, found, run.stderr)
    shown = subprocess.run([binary, "config", "show", "--json", "--config",
                            os.path.join(source, "configs", "demo.yaml")],
                           stdout=subprocess.PIPE, text=True, check=True).stdout
    kept = open(os.path.join(folder, "runs", "demo", "config.yaml"), encoding="utf-8").read()
    again = os.path.join(folder, "kept.yaml")
    with open(again, "w", encoding="utf-8") as f:
        f.write(kept)
    used = subprocess.run([binary, "config", "show", "--json", "--config", again],
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    assert shown == used, "configs/demo.yaml differs from the built-in demo\n%s\n%s" % (shown, used)
sys.exit(0)
