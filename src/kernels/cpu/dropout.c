/* Dropout of whole matrices: y (+)= m * x. The mask is a function of global row and element, so the
 * same call is its own backward. Rows are independent. */
#include "kernels/cpu/mask.h"

void MR_FN(dropout)(void *yv, const void *xv, int64_t n, int64_t w, int acc, const mr_drop *drop,
                    const mr_exec *ex)
{
    REAL *y = yv;
    const REAL *x = xv;
    mask_gen m = mask_make(drop, ex);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *r = y + i * w;
        const REAL *s = x + i * w;
        if (!acc && m.is_on) {
            mask_apply(r, s, w, &m, i);
        } else if (!acc) {
            if (r != s) memcpy(r, s, (size_t)w * sizeof *r);
        } else if (!m.is_on) {
            for (int64_t j = 0; j < w; j++) r[j] += s[j];
        } else {
            /* Masked pieces first, added afterwards: whole blocks of 8, so piece by piece is the
             * row. */
            REAL part[1024];
            for (int64_t j0 = 0; j0 < w; j0 += 1024) {
                int64_t jn = w - j0 < 1024 ? w - j0 : 1024;
                mask_piece(part, s + j0, j0, jn, w, &m, i);
                for (int64_t j = 0; j < jn; j++) r[j0 + j] += part[j];
            }
        }
    }
}
