/* Shared by the tests of the configuration. */
#ifndef CONFIG_TEST_H
#define CONFIG_TEST_H

#include "base/config.h"

/* Write text to a file of its own and load it over c. The path is in config_test_path. */
extern char config_test_path[64];
mr_status config_test_load(mr_config *c, const char *text);
mr_status config_test_load_bytes(mr_config *c, const void *bytes, size_t n);
/* true when every value of a and b, as text, is the same. */
bool config_test_equal(const mr_config *a, const mr_config *b);
int config_test_index(const char *key);

/* test_config_errors.c */
int config_error_tests(void);

#endif
