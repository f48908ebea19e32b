#!/usr/bin/env python3
"""The table of collectives in docs/distributed.md is what the program prints today.

Usage: test_collectives_table.py [--write]   (--write puts the current table into the page)
"""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
sys.dont_write_bytecode = True
import harness as h  # noqa: E402

PAGE = os.path.join(os.environ["MR_SOURCE"], "docs", "distributed.md")
MARKED = re.compile(r"(<!-- table: (plan [^\n]*?) -->\n)(.*?)(<!-- end of table -->\n)", re.S)


def main():
    with open(PAGE, encoding="utf-8") as f:
        page = f.read()
    m = MARKED.search(page)
    if not h.check(m, "docs/distributed.md has no marked table"):
        h.finish()
    table = h.must(m.group(2).split()).stdout
    h.check(table.count("\n") >= 15, "a table of a few lines: %s" % table)
    for purpose in ("ROWS", "VIEWS", "LOSS_PARTIALS", "DENSE_GRADS", "TABLE_GRADS"):
        row = re.search(r"^\| %s \|.* (\d+) \| (\d+) \|$" % purpose, table, re.M)
        h.check(row and int(row.group(1)) > 0 and int(row.group(2)) > 0, "%s: %s" % (
            purpose, row and row.group(0)))
    if sys.argv[1:] == ["--write"]:
        with open(PAGE, "w", encoding="utf-8") as f:
            f.write(page[:m.start(3)] + table + page[m.end(3):])
    else:
        h.check(m.group(3) == table, "docs/distributed.md is out of date; run this test with "
                "--write. The program prints:\n%s" % table)
    h.finish()


if __name__ == "__main__":
    main()
