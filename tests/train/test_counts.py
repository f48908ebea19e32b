#!/usr/bin/env python3
"""TedRec's number of parameters against three published counts, as `plan` prints it.

The counts fix every shape at once: |I| + 1 item rows, 8 experts over 768 text elements and L = 50
positions, the filter, both gates, two encoder layers of width 300 with inner width 256.
"""
import re

import harness as h

for items, count in ((3416, 4252702), (3469, 4268602), (25986, 11023702)):
    data = "items-%d.h5" % items
    h.must(["synth", "--out", data, "--users", "1000", "--items", str(items), "--interactions",
            str(items + 4000), "--width", "0", "--text-width", "768"])
    r = h.must(["plan", "--data.path=" + data, "--model.name=tedrec", "--data.max_len=50",
                "--train.batch=1", "--model.hidden=300", "--model.inner=256", "--tedrec.experts=8"])
    found = re.findall(r"^parameters (\d+),", r.stdout, re.M)
    h.check(found == [str(count)], "%d items: %s parameters, published %d" % (items, found, count))
h.finish()
