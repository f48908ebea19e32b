# The PyTorch twin and the oracles test themselves; each skips (77) where its packages are missing.
mr_add_script(golden_twin golden/test_twin.py LABELS golden TIMEOUT 300)
mr_add_script(golden_oracles golden/test_oracles.py LABELS golden TIMEOUT 600)
mr_add_script(golden_recbole golden/test_recbole.py LABELS golden)
# Step dumps of the program recomputed by the twin; the second one on several ranks.
mr_add_script(golden_step_dump golden/test_step_dump.py LABELS golden TIMEOUT 600)
mr_add_script(golden_step_dump_ranks golden/test_step_dump.py LABELS golden TIMEOUT 600
              ARGS --ranks 1 3 --device cpu64 --only mealrec/)
# Train, export, evaluate; the twin recomputes every user's rank, reverse chains included.
mr_add_script(golden_eval golden/test_eval.py LABELS golden TIMEOUT 600)
