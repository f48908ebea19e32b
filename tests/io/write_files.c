/* Writes one of each kind of file into a folder, under mpirun or alone, for test_files.py; or, for
 * test_full_disk.sh, one checkpoint (DIR save STEP), or reads the latest one (DIR load STEP). */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "io/export.h"
#include "io/tfevents.h"
#include "train/run_folder.h"

static mr_status one_checkpoint(mr_comm *world, const char *dir, const char *what, int64_t step)
{
    toy t;
    mr_train_state s;
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, (int)step);
    bool is_save = !strcmp(what, "save");
    mr_status st = is_save ? toy_save(&t, dir, step, world, false, 9)
                           : mr_checkpoint_load(dir, &t.ps, &s, world);
    if (st == MR_OK && !is_save && (s.step != step || toy_differs(&t, (int)step)))
        st = MR_ERR_INTERNAL;
    toy_close(&t);
    return st;
}

/* cmocka's assertions in support.c need no running test as long as none fails. */
int main(int argc, char **argv)
{
    mr_comm *world = NULL;
    toy t;
    char path[600];
    static mr_config cfg;
    mr_run_info info = {.device = "cpu", .data_path = "", .data_checksum = 1};
    mr_run_folder *f = NULL;
    if ((argc != 2 && argc != 4) ||
        (getenv("OMPI_COMM_WORLD_SIZE") ? mr_comm_mpi_world(&world) : mr_comm_self(&world)) !=
            MR_OK)
        return 1;
    if (argc == 4) {
        mr_status done = one_checkpoint(world, argv[1], argv[2], atoll(argv[3]));
        mr_comm_destroy(&world);
        mr_comm_finalize();
        return mr_exit_code(done);
    }
    mr_config_defaults(&cfg);
    snprintf(cfg.run.dir, sizeof cfg.run.dir, "%s", argv[1]);
    snprintf(cfg.run.name, sizeof cfg.run.name, "toy");
    mr_status st = mr_run_folder_open(&f, &cfg, &info, world);
    if (st == MR_OK) st = mr_run_folder_start(f, -1);
    for (int64_t step = 0; st == MR_OK && step < 300; step += 20) {
        json_t *o = json_pack("{s:s, s:I}", "event", "step", "step", (json_int_t)step);
        json_object_set_new(o, "loss", mr_json_real(step == 40 ? NAN : exp(-0.01 * (double)step)));
        mr_record_event(f->record, o);
    }
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, 5);
    if (st == MR_OK) st = toy_save(&t, f->checkpoints, 120, world, true, 2);
    snprintf(path, sizeof path, "%s/weights.safetensors", argv[1]);
    if (st == MR_OK) st = mr_export_weights(path, &t.ps, "{\"model\": {\"hidden\": 5}}", world);
    snprintf(path, sizeof path, "%s/users.npy", argv[1]);
    if (st == MR_OK) st = mr_export_npy(path, &t.ps, "users.weight", world);
    snprintf(path, sizeof path, "%s/bias.npy", argv[1]);
    if (st == MR_OK) st = mr_export_npy(path, &t.ps, "norm.bias", world);
    toy_close(&t);
    mr_run_folder_close(&f);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return mr_exit_code(st);
}
