/* How the emulator behaves, from the environment, and how it ends a process.
 * MR_EMULATE is a list of key=value with commas; an unknown key ends the process. Keys: order
 * (forward, backward, shuffled), when (late, early, mixed), races (ignore), seed, devices, chip
 * (75), memory (MiB), driver (none), fail_alloc, fail_launch, fail_collective, fail_record (the
 * n-th one fails), fail_again (so does the GPU in the middle of the n-th start of a graph that has
 * started before; with signal=s the process gets that signal instead), update (refused: of
 * collectives in a graph). */
#include "core.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulate
{
namespace
{
int64_t number(const std::string &key, const std::string &text)
{
    char *end;
    long long v = strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end || v < 0)
        stop("MR_EMULATE: %s=%s is not a number", key.c_str(), text.c_str());
    return v;
}

int choice(const std::string &key, const std::string &text, const char *a, const char *b,
           const char *c)
{
    if (text == a) return 0;
    if (text == b) return 1;
    if (text == c) return 2;
    stop("MR_EMULATE: %s=%s; there are %s, %s, %s", key.c_str(), text.c_str(), a, b, c);
}

void take(settings *s, const std::string &key, const std::string &v)
{
    if (key == "order") {
        s->threads = (order)choice(key, v, "forward", "backward", "shuffled");
    } else if (key == "when") {
        s->work = (when)choice(key, v, "late", "early", "mixed");
    } else if (key == "driver") {
        s->has_driver = v != "none";
    } else if (key == "races") {
        s->finds_races = v != "ignore";
    } else if (key == "seed") {
        s->seed = (uint64_t)number(key, v);
    } else if (key == "devices") {
        s->devices = (int)number(key, v);
    } else if (key == "chip") {
        s->chip = (int)number(key, v);
    } else if (key == "memory") {
        s->memory = (size_t)number(key, v) << 20;
    } else if (key == "fail_alloc") {
        s->fail_alloc = number(key, v);
    } else if (key == "fail_launch") {
        s->fail_launch = number(key, v);
    } else if (key == "fail_collective") {
        s->fail_collective = number(key, v);
    } else if (key == "fail_record") {
        s->fail_record = number(key, v);
    } else if (key == "fail_again") {
        s->fail_again = number(key, v);
    } else if (key == "signal") {
        s->signal = (int)number(key, v);
    } else if (key == "update") {
        s->keeps_collectives = v == "refused";
    } else {
        stop("MR_EMULATE: there is no setting '%s'", key.c_str());
    }
}

settings read_environment()
{
    settings s;
    const char *text = getenv("MR_EMULATE");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
        size_t end = rest.find(','), equals = rest.find('=');
        std::string one = rest.substr(0, end);
        if (equals >= one.size()) stop("MR_EMULATE: '%s' is not key=value", one.c_str());
        take(&s, one.substr(0, equals), one.substr(equals + 1));
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
    }
    return s;
}
} // namespace

const settings &set()
{
    static const settings s = read_environment();
    return s;
}

uint64_t draw(uint64_t n)
{
    static uint64_t x = set().seed * 0x9e3779b97f4a7c15ull + 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (x >> 11) % n;
}

void stop(const char *format, ...)
{
    char text[1024]; /* in one piece: two ranks may speak at once */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    fprintf(stderr, "emulated GPU: %s\n", text);
    fflush(nullptr);
    abort();
}
} // namespace emulate
