/* Types and attributes of the data set file; HDF5's error stack as one phrase. */
#include "io/h5_schema.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

const mr_h5_attr mr_h5_attrs[MR_H5_ATTRS] = {
    {"schema", 0, offsetof(mr_h5_header, schema)},
    {"schema_version", 1, offsetof(mr_h5_header, version)},
    {"name", 0, offsetof(mr_h5_header, name)},
    {"is_synthetic", 2, offsetof(mr_h5_header, is_synthetic)},
    {"n_users", 3, offsetof(mr_h5_header, n_users)},
    {"n_items", 3, offsetof(mr_h5_header, n_items)},
    {"n_interactions", 3, offsetof(mr_h5_header, n_inter)},
    {"checksum", 4, offsetof(mr_h5_header, checksum)},
    {"header_xxh3", 4, offsetof(mr_h5_header, header_sum)},
};

void mr_h5_quiet(void)
{
    /* After a failed write 1.10.8 crashes when it tidies up at exit; every file is closed by hand.
     */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static herr_t keep_description(unsigned n, const H5E_error2_t *e, void *out)
{
    (void)n;
    snprintf(out, 200, "%s", e->desc ? e->desc : "");
    return 0;
}

const char *mr_h5_reason(void)
{
    static _Thread_local char text[200];
    text[0] = '\0';
    /* Upward ends at the function that was called; the first entry is the cause. */
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_description, text);
    return text;
}

/* The type, or -1 when it could not be made as it should be. */
static hid_t whole(hid_t t, bool ok)
{
    if (ok) return t;
    H5Tclose(t);
    return -1;
}

hid_t mr_h5_type(mr_dtype t)
{
    switch (t) {
    case MR_F16: {
        hid_t h = H5Tcopy(H5T_IEEE_F32LE);
        if (h < 0) return h;
        return whole(h, H5Tset_fields(h, 15, 10, 5, 0, 10) >= 0 && H5Tset_size(h, 2) >= 0 &&
                            H5Tset_ebias(h, 15) >= 0);
    }
    case MR_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case MR_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case MR_I32: return H5Tcopy(H5T_STD_I32LE);
    case MR_I64: return H5Tcopy(H5T_STD_I64LE);
    case MR_U32: return H5Tcopy(H5T_STD_U32LE);
    case MR_U8: return H5Tcopy(H5T_STD_U8LE);
    case MR_BF16: break;
    }
    return -1;
}

hid_t mr_h5_text_type(void)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t < 0) return t;
    return whole(t, H5Tset_size(t, MR_H5_TEXT) >= 0 && H5Tset_strpad(t, H5T_STR_NULLPAD) >= 0);
}

hid_t mr_h5_attr_type(int kind)
{
    switch (kind) {
    case 0: return mr_h5_text_type();
    case 1: return mr_h5_type(MR_U32);
    case 2: return mr_h5_type(MR_U8);
    case 3: return mr_h5_type(MR_I64);
    case 4: return H5Tcopy(H5T_STD_U64LE);
    }
    return -1;
}

uint64_t mr_h5_header_sum(const mr_h5_header *h, const mr_part parts[MR_PART_COUNT])
{
    int64_t shape[MR_PART_COUNT][5];
    memset(shape, 0, sizeof shape);
    for (int i = 0; i < MR_PART_COUNT; i++) {
        if (!parts[i].rank) continue;
        shape[i][0] = parts[i].rank;
        shape[i][1] = parts[i].dtype;
        for (int j = 0; j < parts[i].rank; j++) shape[i][2 + j] = parts[i].dims[j];
    }
    mr_h5_header copy;
    memset(&copy, 0, sizeof copy); /* padding bytes enter the sum */
    memcpy(copy.schema, h->schema, MR_H5_TEXT);
    memcpy(copy.name, h->name, MR_H5_TEXT);
    copy.version = h->version;
    copy.is_synthetic = h->is_synthetic;
    copy.n_users = h->n_users;
    copy.n_items = h->n_items;
    copy.n_inter = h->n_inter;
    uint64_t two[2] = {XXH3_64bits(&copy, sizeof copy), XXH3_64bits(shape, sizeof shape)};
    return XXH3_64bits(two, sizeof two);
}
