/* Rows by index, positions, frozen features.
 * What it is not: the exchange of rows between ranks (graph/op_embed.c).
 * Sums follow the order of the inverse index or of the rows, so they do not depend on threads. */
#include "kernels/cpu/real.h"

void MR_FN(gather_rows)(void *outv, const void *tablev, const int32_t *row, const void *morev,
                        const int32_t *at, int64_t n, int64_t w, mr_sides sides, const mr_exec *ex)
{
    (void)ex;
    (void)sides;
    REAL *out = outv;
    const REAL *table = tablev, *more = morev;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        memcpy(out + i * w, table + row[i] * w, (size_t)w * sizeof *out);
        for (int64_t j = 0; more && j < w; j++) out[i * w + j] += more[at[i] * w + j];
    }
}

void MR_FN(gather_padded)(void *outv, const void *tablev, const int32_t *row, const int32_t *start,
                          const int32_t *len, int64_t B, int64_t L, int64_t w, int64_t pad,
                          const mr_exec *ex)
{
    (void)ex;
    REAL *out = outv;
    const REAL *table = tablev;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < B * L; i++) {
        int64_t b = i / L, l = i % L;
        int64_t at = l < len[b] ? start[b] + l : pad;
        memcpy(out + i * w, table + row[at] * w, (size_t)w * sizeof *out);
    }
}

void MR_FN(add_rows)(void *outv, const void *xv, const int32_t *row, const int32_t *start,
                     const int32_t *pos, int64_t n, int64_t w, int64_t R, int acc, int32_t skip,
                     const int32_t *tok_row, const int32_t *tok_pos, int64_t L, mr_sides sides,
                     const mr_exec *ex)
{
    (void)ex;
    (void)sides;
    REAL *out = outv;
    const REAL *x = xv;
    if (!acc) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < R; i++) memset(out + i * w, 0, (size_t)w * sizeof *out);
    }
    /* Popular items have many entries: small dynamic pieces even the load. */
#pragma omp parallel for schedule(dynamic, 32)
    for (int64_t i = 0; i < n; i++) {
        int64_t to = row ? row[i] : i;
        if (to == skip) continue;
        REAL *o = out + to * w;
        for (int64_t k = start[i]; k < start[i + 1]; k++) {
            int64_t t = pos[k];
            const REAL *s = x + (tok_row ? tok_row[t] * L + tok_pos[t] : t) * w;
            for (int64_t j = 0; j < w; j++) o[j] += s[j];
        }
    }
}

void MR_FN(position_fwd)(void *yv, const void *xv, const void *tablev, const int32_t *pos,
                         int64_t n, int64_t w, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv, *table = tablev;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const REAL *p = table + pos[i] * w;
        for (int64_t j = 0; j < w; j++) y[i * w + j] = x[i * w + j] + p[j];
    }
}

void MR_FN(position_bwd)(void *dx, void *dtablev, const void *dyv, const int32_t *start,
                         const int32_t *len, int64_t n, int64_t B, int64_t L, int64_t w, int acc_x,
                         int acc, const mr_exec *ex)
{
    if (dx) MR_FN(axpy)(dx, dyv, n * w, 1.0, acc_x, MR_ACT_ACT, ex);
    REAL *dtable = dtablev;
    const REAL *dy = dyv;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t l = 0; l < L; l++)
        for (int64_t j0 = 0; j0 < w; j0 += 4 * MR_CHUNK) {
            int64_t jn = w - j0 < 4 * MR_CHUNK ? w - j0 : 4 * MR_CHUNK;
            REAL s[4 * MR_CHUNK] = {0};
            for (int64_t b = 0; b < B; b++) {
                if (len[b] <= l) continue;
                const REAL *g = dy + (start[b] + l) * w + j0;
                for (int64_t j = 0; j < jn; j++) s[j] += g[j];
            }
            REAL *o = dtable + l * w + j0;
            for (int64_t j = 0; j < jn; j++) o[j] = acc ? o[j] + s[j] : s[j];
        }
}

void MR_FN(last_fwd)(void *yv, const void *xv, const int32_t *start, const int32_t *len, int64_t B,
                     int64_t w, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++)
        memcpy(y + b * w, x + (start[b] + len[b] - 1) * w, (size_t)w * sizeof *y);
}

void MR_FN(last_bwd)(void *dxv, const void *dyv, const int32_t *start, const int32_t *len,
                     int64_t B, int64_t N, int64_t w, int acc, const mr_exec *ex)
{
    (void)ex;
    REAL *dx = dxv;
    const REAL *dy = dyv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++) {
        REAL *d = dx + (start[b] + len[b] - 1) * w;
        if (!acc) memset(dx + start[b] * w, 0, (size_t)(len[b] * w) * sizeof *dx);
        for (int64_t j = 0; j < w; j++) d[j] += dy[b * w + j];
    }
    if (!acc && N > start[B])
        memset(dx + start[B] * w, 0, (size_t)((N - start[B]) * w) * sizeof *dx);
}

/* Half to float for finite values, by moving the bits and scaling by 2^112: exact, subnormals
 * included, and it vectorises. */
static inline float half_value(uint16_t h)
{
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    bits |= sign;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* o[count,w] = the features of an item that is known. */
static void feature_row(REAL *o, const void *data, mr_dtype dtype, int64_t item, int64_t count,
                        int64_t cols, int64_t w)
{
    int64_t run = cols == w ? count * w : cols; /* elements that lie alike in both */
    for (int64_t done = 0; done < count * cols; done += run, o += w) {
        const uint16_t *h = (const uint16_t *)data + item * count * cols + done;
        const float *f = (const float *)data + item * count * cols + done;
        if (dtype == MR_F16)
            for (int64_t j = 0; j < run; j++) o[j] = half_value(h[j]);
        else
            for (int64_t j = 0; j < run; j++) o[j] = f[j];
        for (int64_t j = cols; j < w; j++) o[j] = 0;
    }
}

void MR_FN(feature_gather)(void *outv, const void *data, mr_dtype dtype, const int32_t *id,
                           const void *morev, int64_t n, int64_t count, int64_t cols, int64_t w,
                           int64_t n_items, const mr_exec *ex)
{
    (void)ex;
    REAL *out = outv;
    const REAL *more = morev;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *o = out + i * count * w;
        if (id[i] < 1 || id[i] > n_items)
            memset(o, 0, (size_t)(count * w) * sizeof *o);
        else
            feature_row(o, data, dtype, id[i] - (int64_t)1, count, cols, w);
        for (int64_t j = 0; more && j < count * w; j++) o[j] += more[j];
    }
}

void MR_FN(context)(void *outv, const void *data, mr_dtype dtype, const int32_t *id,
                    const int32_t *start, const int32_t *len, int64_t B, int64_t cols, int64_t w,
                    int64_t n_items, double gamma, const mr_exec *ex)
{
    (void)ex;
    REAL *out = outv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++) {
        REAL *o = out + b * w;
        double total = 0;
        memset(o, 0, (size_t)w * sizeof *o);
        for (int64_t k = 0; k < len[b]; k++) total += exp(-gamma * (double)k);
        for (int64_t k = 0; k < len[b]; k++) {
            int64_t item = id[start[b] + k];
            if (item < 1 || item > n_items) continue;
            REAL a = (REAL)(exp(-gamma * (double)(len[b] - 1 - k)) / total);
            if (dtype == MR_F16) {
                const uint16_t *s = (const uint16_t *)data + (item - 1) * cols;
                for (int64_t j = 0; j < cols; j++) o[j] += a * half_value(s[j]);
            } else {
                const float *s = (const float *)data + (item - 1) * cols;
                for (int64_t j = 0; j < cols; j++) o[j] += a * s[j];
            }
        }
    }
}
