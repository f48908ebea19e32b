/* TensorBoard event files: scalars only. Local to the rank that writes. */
#ifndef MR_IO_TFEVENTS_H
#define MR_IO_TFEVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct mr_tfevents mr_tfevents;
/* A new file events.out.tfevents.TIME.HOST.PID in folder. purge_from >= 0: TensorBoard is told to
 * forget what older files of the folder hold for this step and later ones (a resumed run). ERR_IO.
 */
mr_status mr_tfevents_create(mr_tfevents **out_p, const char *folder, int64_t purge_from);
mr_status mr_tfevents_scalar(mr_tfevents *e, const char *tag, int64_t step, double value);
void mr_tfevents_close(mr_tfevents **e_p); /* accepts NULL content */

uint32_t mr_crc32c(const void *data, size_t bytes); /* Castagnoli polynomial, as in iSCSI */

#endif
