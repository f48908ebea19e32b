# The check of the machine.
if(TARGET mealrec-dist)
  mr_add_script(doctor doctor/test_doctor.py LABELS cli dist)
endif()
