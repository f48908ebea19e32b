/* Titles (csv) and GloVe vectors (text): the bytes before the first 0x01 are the titles. */
#include "fuzz.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/titles_glove.h"

const char fuzz_name[] = "glove";
const char *const fuzz_words[] = {
    "item,title\n", "\"",  "\"\"", ",",        "\n",       "\r\n", " ",   "\t",
    "cat",          "dog", "0.5",  "1e30",     "-1e29",    "nan",  "inf", "0x1p3",
    "3 4\n",        "1,",  "\x01", "\xc3\xa9", "\x1F\x8B", NULL};

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const texts[] = {
        "item,title\n1,The cat and the dog\n2,\"A \"\"dog\"\", again\"\n3,nothing known\n"
        "\x01"
        "cat 0.5 1.5 -2\ndog 1 2 3e-1\nthe 0 0 1\n",
        "title,item_id,x\nCat,1,5\n\"two\nlines dog\",2,6\n\n"
        "\x01"
        "3 4\ncat 1 2 3 4\nnew york 1 2 3 4\n. . . 1 2 3 4\ndog -1 -2 -3 -4\n",
        "item,text\n1,caf\xc3\xa9\n\x01"
        "caf\xc3\xa9 1 2\n"};
    return i < 3 ? fuzz_text(out, texts[i]) : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const ids[] = {"1", "2", "3", "4"};
    const uint8_t *mark = n ? memchr(data, 1, n) : NULL;
    size_t n_titles = mark ? (size_t)(mark - data) : n;
    const char *titles = fuzz_write("titles.csv", data, n_titles);
    const char *glove =
        fuzz_write("glove.txt", mark ? mark + 1 : data, mark ? n - n_titles - 1 : 0);
    float *out = NULL;
    int64_t width = 0;
    mr_title_report report = {0};
    mr_status st = mr_titles_glove(&out, &width, &report, ids, 4, titles, glove);
    bool is_titles = st != MR_OK && strstr(mr_last_error(), titles);
    fuzz_judge(st, 1u << MR_ERR_DATA, is_titles ? titles : glove);
    if (st != MR_OK) {
        fuzz_require(!out, "a refused file gave vectors");
        return 0;
    }
    for (int64_t i = 0; i < 4 * width; i++)
        fuzz_require(isfinite(out[i]), "a vector is not finite");
    MR_FREE(out);
    return 0;
}
