/* Reading a machine, and the alpha-beta model of a step.
 * What it is not: a simulation. Ranks are alike, links are not shared between ranks, and only sums
 * of dense gradients overlap with anything. Invariant: a prediction is a pure function of the plan,
 * the sizes and the machine. */
#include "train/machine.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

/* The numbers of the file, in the order in which it is written. */
static const struct field {
    const char *name;
    size_t at;
    double lo; /* least value; 0 stands for "above 0" where is_positive */
    bool is_positive;
    const char *doc;
} fields[] = {
#define FIELD(name, lo, is_positive, doc)                                                          \
    {                                                                                              \
#name, offsetof(mr_machine, name), lo, is_positive, doc                                    \
    }
    FIELD(ranks_per_node, 1, true, "ranks of a full node: cores or GPUs"),
    FIELD(products, 0, true, "FLOP/s of a rank in matrix products"),
    FIELD(memory, 0, true, "bytes/s of a rank in all other ops"),
    FIELD(update, 0, true, "bytes/s of a rank in the optimizer"),
    FIELD(fixed, 0, false, "seconds of a step that nothing shortens"),
    FIELD(contention, 1, true, "how much longer a rank of a full node computes"),
    FIELD(capacity, 0, true, "bytes of memory of a rank"),
    FIELD(node_alpha, 0, false, "seconds of a collective inside a node"),
    FIELD(node_beta, 0, true, "bytes/s that a rank receives inside a node"),
    FIELD(net_alpha, 0, false, "seconds of a collective between two nodes"),
    FIELD(net_alpha_log2, 0, false, "seconds more for each doubling of the nodes"),
    FIELD(net_beta, 0, true, "bytes/s that a rank receives from other nodes"),
    FIELD(overlap, 0, false, "share of backward under which dense gradients are summed"),
#undef FIELD
};
enum { FIELDS = sizeof fields / sizeof *fields };

static double *field_at(mr_machine *m, int i)
{
    return (double *)(void *)((char *)m + fields[i].at);
}

/* One `key: value` of the file. */
static mr_status take(mr_machine *m, bool *seen, const char *path, int line, const char *key,
                      const char *value)
{
    char *end;
    if (!strcmp(key, "name") || !strcmp(key, "basis")) {
        bool is_name = !strcmp(key, "name");
        snprintf(is_name ? m->name : m->basis, is_name ? sizeof m->name : sizeof m->basis, "%s",
                 value);
        return MR_OK;
    }
    for (int i = 0; i < FIELDS; i++) {
        if (strcmp(key, fields[i].name)) continue;
        double x = strtod(value, &end);
        MR_CHECK(end != value && !*end && isfinite(x) && x >= fields[i].lo &&
                     (x > 0 || !fields[i].is_positive),
                 MR_ERR_CONFIG, "%s:%d: %s: '%.40s' is not a number of at least %g%s", path, line,
                 key, value, fields[i].lo,
                 fields[i].is_positive && fields[i].lo == 0 ? ", and not 0" : "");
        MR_CHECK(!seen[i], MR_ERR_CONFIG, "%s:%d: %s is given twice", path, line, key);
        seen[i] = true;
        *field_at(m, i) = x;
        return MR_OK;
    }
    return MR_RAISE(MR_ERR_CONFIG, "%s:%d: a machine has no '%.40s'; see configs/machines", path,
                    line, key);
}

static mr_status parse(mr_machine *m, bool *seen, yaml_parser_t *parser, const char *path)
{
    char key[64] = "";
    int depth = 0;
    for (bool is_over = false; !is_over;) {
        yaml_event_t e;
        MR_CHECK(yaml_parser_parse(parser, &e), MR_ERR_CONFIG, "%s:%d: not valid YAML: %s", path,
                 (int)parser->problem_mark.line + 1,
                 parser->problem ? parser->problem : "unreadable");
        int line = (int)e.start_mark.line + 1;
        mr_status st = MR_OK;
        is_over = e.type == YAML_STREAM_END_EVENT;
        if (e.type == YAML_MAPPING_START_EVENT) depth++;
        if (e.type == YAML_ALIAS_EVENT || e.type == YAML_SEQUENCE_START_EVENT || depth > 1 ||
            (e.type == YAML_SCALAR_EVENT && depth < 1)) {
            st =
                MR_RAISE(MR_ERR_CONFIG, "%s:%d: a machine is a list of `name: number`", path, line);
        } else if (e.type == YAML_SCALAR_EVENT && !key[0]) {
            snprintf(key, sizeof key, "%.60s", (const char *)e.data.scalar.value);
        } else if (e.type == YAML_SCALAR_EVENT) {
            st = take(m, seen, path, line, key, (const char *)e.data.scalar.value);
            key[0] = 0;
        }
        yaml_event_delete(&e);
        MR_TRY(st);
    }
    return MR_OK;
}

mr_status mr_machine_read(mr_machine *out, const char *path)
{
    mr_machine m = {.name = "", .basis = ""};
    bool seen[FIELDS] = {false};
    yaml_parser_t parser;
    FILE *f = fopen(path, "rb");
    MR_CHECK(f, MR_ERR_NO_INPUT, "--machine %s: %s", path, strerror(errno));
    if (!yaml_parser_initialize(&parser)) {
        fclose(f);
        return MR_RAISE(MR_ERR_MEMORY, "%s: no memory to read it", path);
    }
    yaml_parser_set_input_file(&parser, f);
    mr_status st = parse(&m, seen, &parser, path);
    yaml_parser_delete(&parser);
    fclose(f);
    MR_TRY(st);
    for (int i = 0; i < FIELDS; i++)
        MR_CHECK(seen[i], MR_ERR_CONFIG, "%s: %s is missing: %s", path, fields[i].name,
                 fields[i].doc);
    *out = m;
    return MR_OK;
}

void mr_machine_write(const mr_machine *m, FILE *f)
{
    mr_machine copy = *m;
    fprintf(f, "name: \"%s\"\nbasis: \"%s\"\n", m->name, m->basis);
    for (int i = 0; i < FIELDS; i++)
        fprintf(f, "%s: %.4g%*s# %s\n", fields[i].name, *field_at(&copy, i), 4, "", fields[i].doc);
}

/* How much longer than alone a rank computes with `local` ranks on its node. */
static double slowdown(const mr_machine *m, int local)
{
    double full = m->ranks_per_node, n = local < full ? local : full;
    double f = full > 1 ? 1 + (m->contention - 1) * (n - 1) / (full - 1) : 1;
    return local > full ? f * local / full : f;
}

static double collective(const mr_machine *m, const mr_prediction *p, mr_purpose k, int group,
                         const mr_layout *l)
{
    int ranks, local;
    mr_placement_ranks(k, group, l, &ranks, &local);
    double nodes = (double)ranks / local, calls = (double)p->count[k].calls, s = 0;
    if (local > 1) s += calls * m->node_alpha + p->bytes[k].node / m->node_beta;
    if (nodes > 1)
        s += calls * (m->net_alpha + m->net_alpha_log2 * log2(nodes)) +
             p->bytes[k].net / m->net_beta;
    return s;
}

static void add_times(mr_prediction *p, const mr_predict_spec *s, int group)
{
    const mr_machine *m = s->machine;
    double slow = slowdown(m, s->layout.local), sum = 0;
    p->forward_s = slow * (p->forward.products / m->products + p->forward.bytes / m->memory);
    p->backward_s = slow * (p->backward.products / m->products + p->backward.bytes / m->memory);
    p->update_s = slow * mr_plan_update_bytes(s->plan, group) / m->update;
    p->fixed_s = m->fixed;
    for (int k = 0; k < MR_FOR_COUNT; k++) {
        p->seconds[k] = collective(m, p, (mr_purpose)k, group, &s->layout);
        sum += p->seconds[k];
    }
    p->hidden_s = fmin(p->seconds[MR_FOR_DENSE_GRADS], m->overlap * p->backward_s);
    p->step_s = p->forward_s + p->backward_s + p->update_s + p->fixed_s + sum - p->hidden_s;
}

mr_status mr_predict(mr_prediction *out, const mr_predict_spec *s)
{
    mr_prediction p = {.step_s = 0};
    mr_step_shape shape = s->shape;
    mr_step_size size = s->size;
    double memory = s->machine ? s->machine->capacity : 0;
    MR_TRY(mr_placement_choose(&p.placement, &shape, &s->layout, s->rows, s->n_unique, memory,
                               s->item_shard));
    shape.ranks = s->layout.ranks;
    shape.group = size.group = p.placement.of[p.placement.chosen].group;
    MR_TRY(mr_volume_typical(p.count, &shape, s->rows, s->n_unique));
    size.group_rows = 0;
    for (int r = 0; r < size.group; r++) size.group_rows += s->rows[r];
    p.forward = mr_plan_cost(s->plan, true, &size);
    p.backward = mr_plan_cost(s->plan, false, &size);
    for (int k = 0; k < MR_FOR_COUNT; k++)
        p.bytes[k] = mr_placement_split(&p.count[k], (mr_purpose)k, size.group, &s->layout);
    if (s->machine) add_times(&p, s, size.group);
    *out = p;
    return MR_OK;
}
