# Rules of docs/style.md, and that each of them can fail.
mr_add_script(lint_code lint/lint.py ARGS code LABELS lint)
mr_add_script(lint_format lint/lint.py ARGS format LABELS lint)
mr_add_script(lint_shell lint/lint.py ARGS shell LABELS lint)
mr_add_script(lint_plants lint/test_lint.py LABELS lint)
