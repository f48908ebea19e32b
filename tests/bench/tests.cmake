# bench scaling, bench plot, bench io: what they report and refuse, never how fast.
if(TARGET mealrec-dist)
  mr_add_script(bench_scaling bench/test_scaling.py LABELS cli dist)
endif()
