/* The interaction log: compiled as two targets with seeds of their own, `pairs` (MicroLens) and
 * `inter` (RecBole's .inter and csv, and compressed ones in corpus/inter). */
#include "fuzz.h"

#include <string.h>

#include "data/inter_log.h"

#ifdef FUZZ_PAIRS
const char fuzz_name[] = "pairs";
#else
const char fuzz_name[] = "inter";
#endif
const char *const fuzz_words[] = {"\t",
                                  "\n",
                                  "\r\n",
                                  " ",
                                  ",",
                                  "\"",
                                  "user_id",
                                  "item_id:token",
                                  "user_id:token",
                                  "timestamp:float",
                                  "user",
                                  "item",
                                  "\xEF\xBB\xBF",
                                  "1e308",
                                  "nan",
                                  "-5",
                                  "0x1p4",
                                  "u1",
                                  "\x1F\x8B",
                                  "\xFD"
                                  "7zXZ",
                                  "\t1 2 3 4",
                                  "00012",
                                  NULL};

size_t fuzz_seed(int i, uint8_t *out)
{
#ifdef FUZZ_PAIRS
    static const char *const texts[] = {"1\t10 11 12 13\n2\t11 12 10\n3\t13 10 11 12 10\n",
                                        "anna\tx y z x\n\nbert\tz y\n",
                                        "7\t5 5 5 5\r\n07\t5 6 7 8\r\n-3\t 9  10 \n"};
#else
    static const char *const texts[] = {"user_id:token\titem_id:token\ttimestamp:float\n1\t10\t5."
                                        "5\n1\t11\t4\n2\t10\t1e9\n2\t12\t3\n",
                                        "user,item,timestamp\na,x,3\na,y,2\na,z,1\nb,x,4\nb,y,4\n",
                                        "item\trating\tuser\n5\t3.5\t1\n6\t2\t1\n5\t1\t2\n",
                                        "\xEF\xBB\xBFuser_id,item_id\r\n1,2\r\n1,3\r\n\r\n2,2\r\n"};
#endif
    return i < (int)(sizeof texts / sizeof *texts) ? fuzz_text(out, texts[i]) : 0;
}

static void use(const mr_inter_log *log)
{
    mr_sequences q;
    fuzz_require(mr_log_sort(&q, log) == MR_OK, "an accepted log cannot be sorted");
    fuzz_require(q.n == log->n && q.offset[q.users] == q.n, "interactions are lost in sorting");
    for (int64_t i = 0; i < q.n; i++)
        fuzz_require(q.item[i] >= 0 && q.item[i] < q.items, "an item out of range");
    mr_status st = mr_sequences_k_core(&q, 2, 0, "log");
    fuzz_require(st == MR_OK || st == MR_ERR_DATA, "the 2-core");
    mr_sequences_free(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_inter_log log;
    const char *path = fuzz_write("log.txt", data, n);
    mr_status st = mr_log_read(&log, path);
    fuzz_judge(st, 1u << MR_ERR_DATA, path);
    if (st != MR_OK) return 0;
    use(&log);
    mr_log_free(&log);
    return 0;
}
