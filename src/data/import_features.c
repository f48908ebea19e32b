/* Feature rows: which row belongs to which item, conversion of element types, refusal of bad
 * numbers. Invariant: files are read row by row; only the kept items' features are ever in memory.
 */
#include "data/import_features.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/half.h"
#include "data/npy.h"

/* row_of[number of an item in the log's table] = row in the ids file, -1 = none. */
static mr_status read_ids(mr_row_map *m, int32_t *row_of, const mr_inter_log *log, mr_stream *s)
{
    char *line;
    int64_t len;
    for (;;) {
        MR_TRY(mr_stream_line(s, &line, &len));
        if (!line) return MR_OK;
        MR_CHECK(len > 0, MR_ERR_DATA, "%s: line %lld is empty; one item id a line was expected",
                 s->path, (long long)s->line);
        int32_t i = mr_id_lookup(&log->items, line, len);
        MR_CHECK(i < 0 || row_of[i] < 0, MR_ERR_DATA, "%s: line %lld: item %s was named before",
                 s->path, (long long)s->line, line);
        MR_CHECK(m->rows < INT32_MAX, MR_ERR_DATA, "%s: too many lines", s->path);
        if (i >= 0)
            row_of[i] = (int32_t)m->rows;
        else
            m->unused++;
        m->rows++;
    }
}

static mr_status map_by_ids(mr_row_map *m, const mr_inter_log *log, const mr_sequences *kept,
                            const char *path)
{
    int32_t *row_of = NULL;
    mr_stream s = {0};
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&row_of, log->items.n, "rows of items"), st, end);
    for (int64_t i = 0; i < log->items.n; i++) row_of[i] = -1;
    MR_TRY_GOTO(mr_stream_open(&s, path), st, end);
    MR_TRY_GOTO(read_ids(m, row_of, log, &s), st, end);
    int64_t missing = 0, example = 0;
    for (int64_t i = 0; i < kept->items; i++) {
        m->row[i] = row_of[kept->item_id[i]];
        if (m->row[i] >= 0) continue;
        if (missing++ == 0) example = i;
    }
    if (missing)
        st = MR_RAISE(MR_ERR_DATA, "%s names no row for %lld of %lld items, item %s for one", path,
                      (long long)missing, (long long)kept->items,
                      mr_id_text(&log->items, kept->item_id[example]));
end:
    mr_stream_close(&s);
    MR_FREE(row_of);
    return st;
}

mr_status mr_row_map_make(mr_row_map *m, const mr_inter_log *log, const mr_sequences *all,
                          const mr_sequences *kept, const char *ids_path)
{
    memset(m, 0, sizeof *m);
    m->items = kept->items;
    MR_TRY(MR_ALLOC(&m->row, kept->items, "rows of items"));
    if (ids_path) {
        m->source = "lines of --feature-ids";
        return map_by_ids(m, log, kept, ids_path);
    }
    m->rows = all->items;
    m->source =
        "items of the interactions before filtering; name the rows with --feature-ids if they "
        "are others";
    /* Both lists are ascending, so one walk finds each kept item's place among all. */
    int64_t r = 0;
    for (int64_t i = 0; i < kept->items; i++) {
        while (all->item_id[r] != kept->item_id[i]) r++;
        m->row[i] = (int32_t)r;
    }
    return MR_OK;
}

void mr_row_map_free(mr_row_map *m) { MR_FREE(m->row); }

/* n numbers of a stored type to float or half; counts what is not finite before or after. */
typedef struct bad_numbers {
    int64_t not_finite, too_large;
    int64_t row;       /* of the file, being converted */
    int64_t first_row; /* with a number that is not finite */
} bad_numbers;

static void convert(void *out, mr_dtype to, const void *in, mr_dtype from, int64_t n,
                    bad_numbers *bad)
{
    for (int64_t i = 0; i < n; i++) {
        double v = from == MR_F16   ? (double)mr_half_to_float(((const uint16_t *)in)[i])
                   : from == MR_F32 ? (double)((const float *)in)[i]
                                    : ((const double *)in)[i];
        if (!isfinite(v)) {
            if (!bad->not_finite++ || bad->row < bad->first_row) bad->first_row = bad->row;
            continue;
        }
        float f = (float)v;
        if (to == MR_F16) {
            uint16_t h = mr_float_to_half(f);
            bad->too_large += !mr_half_is_finite(h);
            ((uint16_t *)out)[i] = h;
        } else {
            bad->too_large += !isfinite(f);
            ((float *)out)[i] = f;
        }
    }
}

static mr_status report_bad(const bad_numbers *bad, const char *path, mr_dtype to)
{
    MR_CHECK(bad->not_finite == 0, MR_ERR_DATA,
             "%s: %lld numbers are NaN or infinite, the first of them in row %lld (counted from 0)",
             path, (long long)bad->not_finite, (long long)bad->first_row);
    MR_CHECK(bad->too_large == 0, MR_ERR_DATA, "%s: %lld numbers are too large for float%d", path,
             (long long)bad->too_large, to == MR_F16 ? 16 : 32);
    return MR_OK;
}

static mr_status check_shape(const mr_npy *f, const mr_row_map *m, int rank)
{
    MR_CHECK(f->dtype == MR_F16 || f->dtype == MR_F32 || f->dtype == MR_F64, MR_ERR_DATA,
             "%s holds integers; features are float16, float32 or float64", f->path);
    MR_CHECK(f->rank == rank, MR_ERR_DATA, "%s has %d dimensions; %s was expected", f->path,
             f->rank, rank == 3 ? "[items, frames, width]" : "[items, width]");
    MR_CHECK(
        rank != 3 || (f->dims[1] >= 2 && f->dims[1] <= MR_MAX_FRAMES), MR_ERR_DATA,
        "%s has %lld frames per item; the diffusion over frames needs 2 to %lld (give a single "
        "frame as --visual instead)",
        f->path, (long long)f->dims[1], (long long)MR_MAX_FRAMES);
    int64_t w = f->dims[rank - 1];
    MR_CHECK(w >= 1 && w <= MR_MAX_WIDTH, MR_ERR_DATA, "%s is %lld wide; 1 to %lld is accepted",
             f->path, (long long)w, (long long)MR_MAX_WIDTH);
    MR_CHECK(f->dims[0] == m->rows, MR_ERR_DATA, "%s has %lld rows but there are %lld %s", f->path,
             (long long)f->dims[0], (long long)m->rows, m->source);
    return MR_OK;
}

mr_status mr_feature_read(mr_feature *f, const mr_row_map *m, const char *path, int rank, int dtype)
{
    mr_npy npy;
    mr_feature x = {0};
    void *buf = NULL;
    bad_numbers bad = {0};
    mr_status st;
    MR_TRY(mr_npy_open(&npy, path));
    MR_TRY_GOTO(check_shape(&npy, m, rank), st, end);
    x.dtype =
        dtype != MR_IMPORT_DTYPE_KEEP ? (mr_dtype)dtype : (npy.dtype == MR_F16 ? MR_F16 : MR_F32);
    x.count = rank == 3 ? npy.dims[1] : 1;
    x.width = npy.dims[rank - 1];
    int64_t n = x.count * x.width;
    MR_TRY_GOTO(mr_alloc(&x.data, m->items * n, mr_dtype_bytes(x.dtype), path), st, end);
    MR_TRY_GOTO(mr_alloc(&buf, n, mr_dtype_bytes(npy.dtype), "feature row"), st, end);
    for (int64_t i = 0; i < m->items; i++) {
        MR_TRY_GOTO(mr_npy_row(&npy, m->row[i], buf), st, end);
        bad.row = m->row[i];
        convert((char *)x.data + i * n * (int64_t)mr_dtype_bytes(x.dtype), x.dtype, buf, npy.dtype,
                n, &bad);
    }
    st = report_bad(&bad, path, x.dtype);
end:
    mr_npy_close(&npy);
    MR_FREE(buf);
    if (st == MR_OK)
        *f = x;
    else
        MR_FREE(x.data);
    return st;
}

mr_status mr_feature_mean(mr_feature *visual, const mr_feature *frames, int64_t items)
{
    mr_feature v = {.dtype = frames->dtype, .width = frames->width, .count = 1};
    MR_TRY(mr_alloc(&v.data, items * v.width, mr_dtype_bytes(v.dtype), "visual"));
    for (int64_t i = 0; i < items; i++) {
        for (int64_t j = 0; j < v.width; j++) {
            double sum = 0;
            for (int64_t k = 0; k < frames->count; k++) {
                int64_t at = (i * frames->count + k) * v.width + j;
                sum += frames->dtype == MR_F16
                           ? (double)mr_half_to_float(((const uint16_t *)frames->data)[at])
                           : (double)((const float *)frames->data)[at];
            }
            float mean = (float)(sum / (double)frames->count);
            if (v.dtype == MR_F16)
                ((uint16_t *)v.data)[i * v.width + j] = mr_float_to_half(mean);
            else
                ((float *)v.data)[i * v.width + j] = mean;
        }
    }
    *visual = v;
    return MR_OK;
}

mr_status mr_feature_take(mr_feature *f, const mr_row_map *m, const float *x, int64_t width,
                          int dtype)
{
    mr_feature y = {.dtype = dtype == MR_F16 ? MR_F16 : MR_F32, .width = width, .count = 1};
    bad_numbers bad = {0};
    MR_TRY(mr_alloc(&y.data, m->items * width, mr_dtype_bytes(y.dtype), "text"));
    for (int64_t i = 0; i < m->items; i++) {
        bad.row = m->row[i];
        convert((char *)y.data + i * width * (int64_t)mr_dtype_bytes(y.dtype), y.dtype,
                x + m->row[i] * width, MR_F32, width, &bad);
    }
    mr_status st = report_bad(&bad, "text features", y.dtype);
    if (st == MR_OK)
        *f = y;
    else
        MR_FREE(y.data);
    return st;
}
