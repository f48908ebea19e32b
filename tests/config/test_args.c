/* The command line parser, with commands made up for the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/args.h"

static mr_status run_nothing(const mr_args *a)
{
    (void)a;
    return MR_OK;
}

static const mr_cli_option import_options[] = {{"interactions", "FILE", "pairs or .inter file"},
                                               {"k-core", "N", "smallest number of interactions"},
                                               {"noise", "X", "a number"},
                                               {"verbose", NULL, "say more"},
                                               {NULL, NULL, NULL}};
static const mr_command import = {
    .name = "import", .summary = "make a data set", .options = import_options, .run = run_nothing};
static const mr_command train = {
    .name = "train", .summary = "train a model", .needs_config = true, .run = run_nothing};
static const mr_command compare = {.name = "compare",
                                   .summary = "compare two files",
                                   .words = "A B",
                                   .words_min = 2,
                                   .words_max = 2,
                                   .run = run_nothing};
static const mr_command *const commands[] = {&train, &import, &compare};

enum { MOST = 12 };
static mr_args args;

/* words: the command line behind the program's name, up to a NULL. */
static mr_status parse(const char *const words[MOST])
{
    char *argv[MOST + 2] = {"mealrec-dist"};
    int argc = 1;
    while (words[argc - 1]) {
        argv[argc] = (char *)words[argc - 1];
        argc++;
    }
    return mr_args_parse(&args, argc, argv, commands, 3, "train");
}
#define PARSE(...) parse((const char *const[MOST]){__VA_ARGS__, NULL})

static void test_commands(void **state)
{
    (void)state;
    assert_int_equal(parse((const char *const[MOST]){NULL}), MR_OK);
    assert_ptr_equal(args.command, &train);
    assert_int_equal(args.config.model.hidden, 300);
    assert_int_equal(PARSE("--model.hidden=64", "--dry-run"), MR_OK);
    assert_ptr_equal(args.command, &train);
    assert_true(args.is_dry_run);
    assert_int_equal(args.config.model.hidden, 64);
    assert_int_equal(PARSE("compare", "a.npy", "b.npy"), MR_OK);
    assert_int_equal(args.n_words, 2);
    assert_string_equal(args.words[1], "b.npy");
    assert_int_equal(PARSE("compare", "-", "b.npy"), MR_OK);
}

static void test_own_options(void **state)
{
    (void)state;
    int64_t k = -1;
    double x = -1;
    const char *file = NULL;
    assert_int_equal(PARSE("import", "--interactions", "a.tsv", "--k-core=4", "--verbose"), MR_OK);
    assert_string_equal(mr_args_value(&args, "interactions"), "a.tsv");
    assert_true(mr_args_has(&args, "verbose"));
    assert_false(mr_args_has(&args, "noise"));
    assert_int_equal(mr_args_int(&args, "k-core", 1, 100, 0, &k), MR_OK);
    assert_int_equal(k, 4);
    assert_int_equal(mr_args_real(&args, "noise", 0, 1, 0.25, &x), MR_OK);
    assert_true(x == 0.25);
    assert_int_equal(mr_args_need(&args, "interactions", &file), MR_OK);
    assert_int_equal(mr_args_need(&args, "noise", &file), MR_ERR_USAGE);
    assert_string_equal(mr_last_error(), "import needs --noise; see mealrec-dist import --help");
    assert_int_equal(PARSE("import", "--k-core", "-3", "--noise=1e-1", "--interactions=a=b"),
                     MR_OK);
    assert_string_equal(mr_args_value(&args, "interactions"), "a=b");
    assert_int_equal(mr_args_real(&args, "noise", 0, 1, 0.25, &x), MR_OK);
    assert_true(x == 0.1);
    assert_int_equal(mr_args_int(&args, "k-core", 1, 100, 0, &k), MR_ERR_USAGE);
    assert_string_equal(mr_last_error(), "--k-core = '-3' is not accepted; accepted: an integer, "
                                         "1 <= n <= 100");
    assert_int_equal(k, 4);
    static const char *const bad[] = {"", " 4", "4x", "4.0", "99999999999999999999", "101"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(PARSE("import", "--k-core", bad[i]), MR_OK);
        assert_int_equal(mr_args_int(&args, "k-core", 1, 100, 0, &k), MR_ERR_USAGE);
    }
}

typedef struct wrong {
    const char *words[MOST], *says;
    mr_status status;
} wrong;

static void test_wrong(void **state)
{
    (void)state;
    static const wrong list[] = {
        {{"trian"}, "unknown command 'trian'; did you mean 'train'?", MR_ERR_USAGE},
        {{"frobnicate"},
         "unknown command 'frobnicate'; commands: train, import, compare",
         MR_ERR_USAGE},
        {{"train", "--dry-rum"},
         "train has no option '--dry-rum'; did you mean '--dry-run'?",
         MR_ERR_USAGE},
        {{"train", "--lr=1"},
         "train has no option '--lr'; did you mean '--train.lr'?",
         MR_ERR_USAGE},
        {{"import", "--lr=1"}, "import has no option '--lr'; see", MR_ERR_USAGE},
        {{"import", "--kcore=3"},
         "import has no option '--kcore'; did you mean '--k-core'?",
         MR_ERR_USAGE},
        {{"import", "--zzz"},
         "import has no option '--zzz'; see mealrec-dist import --help",
         MR_ERR_USAGE},
        {{"import", "--k-core"}, "--k-core needs a value: --k-core=N", MR_ERR_USAGE},
        {{"import", "--k-core", "--verbose"}, "--k-core needs a value", MR_ERR_USAGE},
        {{"import", "--verbose=1"}, "--verbose takes no value", MR_ERR_USAGE},
        {{"import", "--verbose", "--verbose"}, "--verbose is given twice", MR_ERR_USAGE},
        {{"import", "--train.lr=1"},
         "import takes no configuration, but '--train.lr=1' was given",
         MR_ERR_USAGE},
        {{"import", "--config", "x"}, "import takes no configuration", MR_ERR_USAGE},
        {{"train", "--dry-run=yes"}, "--dry-run takes no value", MR_ERR_USAGE},
        {{"train", "--config"}, "--config needs a value: --config=FILE", MR_ERR_USAGE},
        {{"train", "--train.lr"}, "--train.lr needs a value: --train.lr=VALUE", MR_ERR_USAGE},
        {{"train", "x"}, "train does not take the word 'x'", MR_ERR_USAGE},
        {{"--train.lr=1", "import"},
         "the command comes first: mealrec-dist import ...",
         MR_ERR_USAGE},
        {{"train", "-x"}, "unknown option '-x'; see mealrec-dist --help", MR_ERR_USAGE},
        {{"train", "--"}, "unknown option '--'", MR_ERR_USAGE},
        {{"compare", "a"}, "usage: mealrec-dist compare A B", MR_ERR_USAGE},
        {{"train", "--trian.lr=1"},
         "command line: unknown key 'trian.lr'; did you mean 'train.lr'?",
         MR_ERR_CONFIG},
        {{"train", "--train.lr=x"}, "command line: train.lr = 'x' is not a number", MR_ERR_CONFIG},
        {{"train", "--train.lr="}, "command line: train.lr = '' is not a number", MR_ERR_CONFIG},
        {{"train", "--model.heads=7"},
         "model.hidden = 300 (default) is not a multiple of model.heads = 7 "
         "(command line)",
         MR_ERR_CONFIG},
        {{"train", "--config=/nowhere/a.yaml"}, "/nowhere/a.yaml: cannot open", MR_ERR_NO_INPUT},
        /* The form of the whole line is judged before any file is read. */
        {{"train", "--config=/nowhere/a.yaml", "--zzz"},
         "train has no option '--zzz'",
         MR_ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        mr_status st = parse(list[i].words);
        if (st != list[i].status || !strstr(mr_last_error(), list[i].says))
            fail_msg("expected '%s' (%d), said '%s' (%d)", list[i].says, list[i].status,
                     st == MR_OK ? "nothing" : mr_last_error(), st);
    }
}

static void test_help(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(PARSE("--help"), MR_OK);
    assert_true(args.is_help && !args.command);
    assert_int_equal(PARSE("import", "-h"), MR_OK);
    assert_true(args.is_help && args.command == &import);
    assert_int_equal(PARSE("compare", "--help"), MR_OK); /* although its words are missing */
    assert_int_equal(PARSE("--version"), MR_OK);
    assert_true(args.is_version);
    FILE *f = open_memstream(&text, &n);
    mr_args_help(f, &import, commands, 3);
    fclose(f);
    for (int i = 0; import_options[i].name; i++) {
        assert_non_null(strstr(text, import_options[i].name));
        assert_non_null(strstr(text, import_options[i].doc));
    }
    assert_null(strstr(text, "--config"));
    free(text);
    f = open_memstream(&text, &n);
    mr_args_help(f, &train, commands, 3);
    fclose(f);
    assert_non_null(strstr(text, "--config FILE"));
    for (int i = 0; i < mr_config_count(); i++) {
        assert_non_null(strstr(text, mr_config_key(i)));
        assert_non_null(strstr(text, mr_config_doc(i)));
    }
    free(text);
    f = open_memstream(&text, &n);
    mr_args_help(f, NULL, commands, 3);
    fclose(f);
    for (int i = 0; i < 3; i++) assert_non_null(strstr(text, commands[i]->summary));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_commands),
                                       cmocka_unit_test(test_own_options),
                                       cmocka_unit_test(test_wrong), cmocka_unit_test(test_help)};
    mr_errors_to_log(false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
