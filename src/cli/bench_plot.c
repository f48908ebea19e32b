/* bench plot: files of bench scaling as one SVG of two panels: speed-up, and data received by a
 * rank in a step, both over the number of ranks.
 * What it is not: a judge of the figures; points without a time (null) are left out of the
 * speed-up, and the panel says so when that leaves nothing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"

enum { MOST_LINES = 24, MOST_POINTS = 32, PANEL = 330, LEFT = 62, TOP = 56, GAP = 96 };

typedef struct line {
    char name[160];
    int n;
    double ranks[MOST_POINTS], speedup[MOST_POINTS], megabytes[MOST_POINTS]; /* NaN: no value */
} line;

typedef struct plot {
    int n;
    line line[MOST_LINES];
    double most_ranks, most_speedup, most_megabytes;
    bool is_synthetic;
} plot;

static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000", "#999999"};
enum { COLOURS = sizeof colours / sizeof *colours };

static double real_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The line of a point: same data, kind and (strong) batch or (weak) rows of a rank. */
static line *line_of(plot *p, const char *data, const json_t *point)
{
    char name[160];
    const char *kind = json_string_value(json_object_get(point, "kind"));
    double ranks = real_of(point, "ranks"), rows = real_of(point, "rows");
    if (!kind || !(ranks >= 1) || !(rows >= 0)) return NULL;
    bool is_weak = !strcmp(kind, "weak");
    snprintf(name, sizeof name, "%.100s, %s, %.0f rows%s", data, is_weak ? "weak" : "strong",
             is_weak ? rows / ranks : rows, is_weak ? " a rank" : "");
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->line[i].name, name)) return &p->line[i];
    if (p->n == MOST_LINES) return NULL;
    memcpy(p->line[p->n].name, name, sizeof name);
    return &p->line[p->n++];
}

static mr_status add_point(plot *p, const char *path, const char *data, const json_t *point)
{
    line *l = line_of(p, data, point);
    MR_CHECK(l && l->n < MOST_POINTS, MR_ERR_DATA,
             "%s: a point without kind, ranks and rows, or more than %d lines of %d points", path,
             MOST_LINES, MOST_POINTS);
    double ranks = real_of(point, "ranks");
    l->ranks[l->n] = ranks;
    l->speedup[l->n] = real_of(point, "efficiency") * ranks;
    l->megabytes[l->n] = 1e-6 * real_of(point, "bytes_in");
    p->most_ranks = fmax(p->most_ranks, ranks); /* fmax leaves out a NaN */
    p->most_speedup = fmax(p->most_speedup, l->speedup[l->n]);
    p->most_megabytes = fmax(p->most_megabytes, l->megabytes[l->n]);
    l->n++;
    return MR_OK;
}

static mr_status add_file(plot *p, const char *path)
{
    json_error_t e;
    json_t *o = json_load_file(path, 0, &e);
    MR_CHECK(o, e.line < 0 ? MR_ERR_NO_INPUT : MR_ERR_DATA, "%s: %s (line %d)", path, e.text,
             e.line);
    const char *bench = json_string_value(json_object_get(o, "bench"));
    const char *data = json_string_value(json_object_get(o, "data"));
    const json_t *points = json_object_get(o, "points");
    mr_status st = MR_OK;
    if (!bench || strcmp(bench, "scaling") || !data || !json_array_size(points))
        st = MR_RAISE(MR_ERR_DATA, "%s holds no result of `mealrec-dist bench scaling`", path);
    for (size_t i = 0; st == MR_OK && i < json_array_size(points); i++)
        st = add_point(p, path, data, json_array_get(points, i));
    if (st == MR_OK) p->is_synthetic |= json_is_true(json_object_get(o, "is_synthetic"));
    json_decref(o);
    return st;
}

/* Place of a value on an axis of PANEL pixels; ranks and speed-up are drawn as powers of two. */
static double on_log(double v, double most) { return PANEL * log2(v) / fmax(1, log2(most)); }
static double on_linear(double v, double most) { return most > 0 ? PANEL * v / most : 0; }

static void escaped(FILE *f, const char *text)
{
    for (; *text; text++) switch (*text) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        default: fputc(*text, f);
        }
}

static void text_at(FILE *f, double x, double y, const char *anchor, const char *text)
{
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    escaped(f, text);
    fputs("</text>\n", f);
}

static void grid(FILE *f, const plot *p, double x0, const char *title, bool is_speedup)
{
    char label[32];
    double most = is_speedup ? fmax(p->most_ranks, p->most_speedup) : p->most_megabytes;
    text_at(f, x0 + PANEL / 2.0, TOP - 12, "middle", title);
    fprintf(f,
            "<rect x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" "
            "stroke=\"#888\"/>\n",
            x0, TOP, PANEL, PANEL);
    for (double r = 1; r <= p->most_ranks; r *= 2) {
        double x = x0 + on_log(r, p->most_ranks);
        snprintf(label, sizeof label, "%.0f", r);
        text_at(f, x, TOP + PANEL + 18, "middle", label);
        fprintf(f, "<path d=\"M%.1f %dV%d\" stroke=\"#ddd\"/>\n", x, TOP, TOP + PANEL);
    }
    text_at(f, x0 + PANEL / 2.0, TOP + PANEL + 38, "middle", "ranks");
    for (int i = 0; i <= 4; i++) {
        double v = is_speedup ? exp2(i * fmax(1, log2(most)) / 4) : most * i / 4;
        double y = TOP + PANEL - PANEL * i / 4.0;
        snprintf(label, sizeof label, v < 10 ? "%.2g" : "%.0f", v);
        text_at(f, x0 - 8, y + 4, "end", label);
        fprintf(f, "<path d=\"M%.1f %.1fh%d\" stroke=\"#ddd\"/>\n", x0, y, PANEL);
    }
}

/* One value of every line; returns the number of points drawn. */
static int curves(FILE *f, const plot *p, double x0, bool is_speedup)
{
    int drawn = 0;
    double most = is_speedup ? fmax(p->most_ranks, p->most_speedup) : p->most_megabytes;
    for (int i = 0; i < p->n; i++) {
        const line *l = &p->line[i];
        const double *v = is_speedup ? l->speedup : l->megabytes;
        char mark = 'M';
        fputs("<path fill=\"none\" stroke-width=\"2\" d=\"", f);
        for (int j = 0; j < l->n; j++) {
            if (isnan(v[j])) continue;
            double y = is_speedup ? on_log(fmax(v[j], 1e-3), most) : on_linear(v[j], most);
            fprintf(f, "%c%.1f %.1f", mark, x0 + on_log(l->ranks[j], p->most_ranks),
                    TOP + PANEL - fmax(y, 0));
            mark = 'L';
            drawn++;
        }
        fprintf(f, "\" stroke=\"%s\"%s/>\n", colours[i % COLOURS],
                i >= COLOURS ? " stroke-dasharray=\"6 3\"" : "");
    }
    return drawn;
}

static void draw(FILE *f, const plot *p)
{
    double second = LEFT + PANEL + GAP;
    int width = LEFT + 2 * PANEL + GAP + 24, height = TOP + PANEL + 60 + 20 * p->n;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            width, height, width, height);
    text_at(f, width / 2.0, 22, "middle",
            p->is_synthetic ? "bench scaling, SYNTHETIC data" : "bench scaling");
    grid(f, p, LEFT, "speed-up (dashed: ideal)", true);
    double end = on_log(p->most_ranks, fmax(p->most_ranks, p->most_speedup));
    fprintf(f, "<path d=\"M%d %dL%.1f %.1f\" stroke=\"#555\" stroke-dasharray=\"4 4\"/>\n", LEFT,
            TOP + PANEL, LEFT + on_log(p->most_ranks, p->most_ranks), TOP + PANEL - end);
    if (!curves(f, p, LEFT, true))
        text_at(f, LEFT + PANEL / 2.0, TOP + PANEL / 2.0, "middle", "no times: too few cores");
    grid(f, p, second, "MB received by the busiest rank in a step", false);
    curves(f, p, second, false);
    for (int i = 0; i < p->n; i++) {
        int y = TOP + PANEL + 62 + 20 * i;
        fprintf(f, "<path d=\"M%d %dh28\" stroke=\"%s\" stroke-width=\"2\"%s/>\n", LEFT, y - 4,
                colours[i % COLOURS], i >= COLOURS ? " stroke-dasharray=\"6 3\"" : "");
        text_at(f, LEFT + 36, y, "start", p->line[i].name);
    }
    fputs("</svg>\n", f);
}

static mr_status run(const mr_args *a)
{
    static plot p;
    const char *path;
    MR_CHECK(a->n_words > 1, MR_ERR_USAGE, "bench plot wants files of `bench scaling --json`");
    MR_TRY(mr_args_need(a, "svg", &path));
    p = (plot){.most_ranks = 1};
    for (int i = 1; i < a->n_words; i++) MR_TRY(add_file(&p, a->words[i]));
    FILE *f = fopen(path, "w");
    MR_CHECK(f, MR_ERR_IO, "--svg %s: cannot write it", path);
    draw(f, &p);
    bool failed = ferror(f) != 0;
    MR_CHECK((fclose(f) == 0) & !failed, MR_ERR_IO, "--svg %s: cannot write it", path);
    return MR_OK;
}

const mr_bench mr_bench_plot = {.name = "plot", .options = "svg", .run = run, .takes_files = true};
