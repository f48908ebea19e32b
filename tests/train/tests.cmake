# The training program end to end: equality over ranks, resuming, variants, evaluation, refusals.
mr_add_test(sound SOURCES train/test_sound.c NPROCS 1 2 3 LABELS train dist TIMEOUT 120)
mr_add_test(exact_eval SOURCES train/test_exact_eval.c NPROCS 1 2 3 4 8 LABELS train dist
            TIMEOUT 300)
mr_add_test(trainer SOURCES train/test_trainer.c LABELS train TIMEOUT 300)
mr_add_test(placement SOURCES train/test_placement.c LABELS train dist)
add_executable(baseline_ranks train/baseline_ranks.c)
target_link_libraries(baseline_ranks PRIVATE mealrec)
add_executable(hang_job train/hang_job.c)
target_link_libraries(hang_job PRIVATE mealrec)
if(TARGET mealrec-dist)
  foreach(model sasrec cl4srec tedrec mealrec)
    mr_add_script(train_ranks_${model} train/test_ranks.py ARGS ${model}
                  LABELS train dist TIMEOUT 300)
  endforeach()
  foreach(part tedrec mealrec mealrec-sasrec mealrec-cl4srec paths)
    mr_add_script(train_features_${part} train/test_features.py ARGS ${part}
                  LABELS train dist TIMEOUT 600)
  endforeach()
  foreach(model cl4srec tedrec mealrec-sasrec)
    mr_add_script(train_exchange_${model} train/test_exchange.py ARGS ${model}
                  LABELS train dist TIMEOUT 600)
  endforeach()
  foreach(part bits signals reshard)
    mr_add_script(train_resume_${part} train/test_resume.py ARGS ${part}
                  LABELS train dist TIMEOUT 300)
  endforeach()
  foreach(model sasrec cl4srec tedrec mealrec mealrec-cl4srec)
    mr_add_script(train_exact_${model} train/test_exact.py ARGS ${model}
                  LABELS train dist TIMEOUT 300)
  endforeach()
  foreach(part gradcheck guard)
    mr_add_script(train_${part} train/test_variants.py ARGS ${part} LABELS train TIMEOUT 300)
  endforeach()
  mr_add_script(train_counts train/test_counts.py LABELS train)
  mr_add_script(train_plan_ranks train/test_plan_ranks.py LABELS train dist)
  mr_add_script(train_evaluate train/test_evaluate.py LABELS train dist TIMEOUT 300)
  mr_add_script(train_baselines train/test_baselines.py ARGS $<TARGET_FILE:baseline_ranks>
                LABELS train TIMEOUT 300)
  # The same program, built by somebody who does not know from which revision.
  add_executable(other_build ${CMAKE_SOURCE_DIR}/src/cli/main.c
                 ${CMAKE_SOURCE_DIR}/src/io/environment.c)
  target_include_directories(other_build PRIVATE ${OPENBLAS_INC})
  target_link_libraries(other_build PRIVATE mealrec)
  mr_add_script(train_refusals train/test_refusals.py ARGS $<TARGET_FILE:other_build>
                LABELS train cli dist TIMEOUT 300)
  mr_add_script(train_signals train/test_signals.py LABELS train dist TIMEOUT 300)
  mr_add_script(train_async train/test_async.py LABELS train dist TIMEOUT 300)
  mr_add_script(train_hang train/test_hang.py ARGS $<TARGET_FILE:hang_job>
                LABELS train dist fault TIMEOUT 300)
  mr_add_script(train_hang_commands train/test_hang_commands.py ARGS $<TARGET_FILE:hang_job>
                LABELS train dist fault TIMEOUT 300)
  # They are about seconds.
  set_tests_properties(train_hang train_hang_commands PROPERTIES RUN_SERIAL TRUE)
  mr_add_script(train_demo train/test_demo.py LABELS train TIMEOUT 400)
endif()
