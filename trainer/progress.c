/*
 *  1. `shown` is true exactly while the bar stands on the terminal's last line; log lines clear it first and
 *     draw it again.
 *  2. Everything that log hooks touch is guarded by `lock`, since any thread may log.
 */
#include "trainer/progress.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum { TEXT_BYTES = 512, REDRAW_NS = 100 * 1000 * 1000, MAX_NOTE = 64 };
static const int64_t line_ns = (int64_t)10 * 1000 * 1000 * 1000;

struct progress {
    enum progress_style style;
    int64_t first_step, total_steps;
    int64_t started_ns, drawn_ns;
    struct step_record last;
    double seconds_left;
    char note[MAX_NOTE];
    bool is_text; /* of the caller's, instead of steps */
    char text[TEXT_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char bar[TEXT_BYTES]; /* what stands on the line */
static bool shown, hidden_by_log;

/* ---- where it goes ---- */

/* mpirun starts the ranks of its own host itself, with pipes; its standard error is then our parent's. */
static bool launcher_terminal(char path[64])
{
    static const char *const rewriting[] = {"OMPI_MCA_orte_tag_output", "OMPI_MCA_orte_timestamp_output",
                                            "OMPI_MCA_orte_output_filename"};
    for (size_t i = 0; i < sizeof rewriting / sizeof *rewriting; i++)
        if (getenv(rewriting[i])) return false;
    char name[64], comm[32] = "", target[128] = "";
    snprintf(name, sizeof name, "/proc/%d/comm", (int)getppid());
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, comm, sizeof comm - 1);
    close(fd);
    if (n <= 0) return false;
    comm[strcspn(comm, "\n")] = '\0';
    if (strcmp(comm, "mpirun") != 0 && strcmp(comm, "mpiexec") != 0 && strcmp(comm, "orterun") != 0 &&
        strcmp(comm, "prterun") != 0)
        return false;
    snprintf(path, 64, "/proc/%d/fd/2", (int)getppid());
    if (readlink(path, target, sizeof target - 1) <= 0) return false;
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0 ||
           strcmp(target, "/dev/console") == 0;
}

enum progress_style progress_pick(enum progress_style style)
{
    if (style != PROGRESS_AUTO) return style;
    const char *terminal = getenv("TERM");
    char path[64];
    if (terminal && strcmp(terminal, "dumb") == 0) return PROGRESS_LINES;
    if (getenv("OMPI_COMM_WORLD_SIZE")) return launcher_terminal(path) ? PROGRESS_BAR : PROGRESS_LINES;
    return isatty(STDERR_FILENO) ? PROGRESS_BAR : PROGRESS_LINES;
}

int progress_width(void)
{
    struct winsize size = {0};
    const char *columns = getenv("COLUMNS");
    if (columns && atoi(columns) > 0) return atoi(columns);
    char path[64];
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 && launcher_terminal(path)) {
        int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0) {
            if (ioctl(fd, TIOCGWINSZ, &size) != 0) size.ws_col = 0;
            close(fd);
        }
    }
    return size.ws_col ? size.ws_col : 100;
}

/* ---- the text ---- */

void progress_duration(char text[32], double seconds)
{
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 86400)
        snprintf(text, 32, "%lldd %02lldh", (long long)(s / 86400), (long long)(s / 3600 % 24));
    else if (s >= 3600)
        snprintf(text, 32, "%lld:%02lld:%02lld", (long long)(s / 3600), (long long)(s / 60 % 60),
                 (long long)(s % 60));
    else
        snprintf(text, 32, "%lld:%02lld", (long long)(s / 60), (long long)(s % 60));
}

static void rate_text(char text[32], const struct step_record *record)
{
    double rate = record->step_seconds > 0 ? (double)record->tokens / record->step_seconds : 0;
    if (rate >= 1e6)
        snprintf(text, 32, "%.2fM tok/s", rate / 1e6);
    else if (rate >= 1e4)
        snprintf(text, 32, "%.1fk tok/s", rate / 1e3);
    else
        snprintf(text, 32, "%.0f tok/s", rate);
}

static double real_percent(const struct step_record *record)
{
    return record->slots > 0 ? 100.0 * (double)record->tokens / (double)record->slots : 0;
}

struct text {
    char *at;
    size_t length, bytes; /* bytes: with the NUL */
};

/* Adds the whole field or, when it does not fit, nothing. */
static bool add_field(struct text *text, int width, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool add_field(struct text *text, int width, const char *format, ...)
{
    char field[128];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(field, sizeof field, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof field || width < 0) return false;
    if (text->length + (size_t)n > (size_t)width || text->length + (size_t)n >= text->bytes) return false;
    memcpy(text->at + text->length, field, (size_t)n + 1);
    text->length += (size_t)n;
    return true;
}

size_t progress_bar_text(char *text, size_t bytes, int width, const struct step_record *record,
                         double seconds_left, const char *note)
{
    struct text out = {text, 0, bytes};
    double done = record->total_steps > 0 ? (double)record->step / (double)record->total_steps : 0;
    if (done > 1) done = 1;
    text[0] = '\0';

    char cells[41] = "";
    int n_cells = width >= 120 ? 24 : width >= 100 ? 12 : width >= 60 ? 8 : 0;
    for (int i = 0; i < n_cells; i++) cells[i] = i < (int)(done * n_cells) ? '#' : '.';
    add_field(&out, width, "%3d%% ", (int)(done * 100));
    if (n_cells) add_field(&out, width, "[%s] ", cells);
    add_field(&out, width, "%lld/%lld", (long long)record->step, (long long)record->total_steps);
    if (record->step == 0) {
        if (note && *note) add_field(&out, width, "  %s", note);
        return out.length;
    }
    /* In the order of the line is nearly the order of importance; the time left and a note are asked about
     * more than the rest, so room is kept for them. */
    char left[64] = "", duration[32];
    if (seconds_left >= 0) {
        progress_duration(duration, seconds_left);
        snprintf(left, sizeof left, "  left %s", duration);
    }
    int tail = (int)strlen(left) + (note && *note ? (int)strlen(note) + 2 : 0);
    int room = width - tail;
    char rate[32];
    rate_text(rate, record);
    if (record->stage && *record->stage) add_field(&out, room, "  %s", record->stage);
    add_field(&out, room, "  loss %.4f", record->loss);
    bool fits = add_field(&out, room, "  lr %.2e", record->learning_rate);
    fits = fits && add_field(&out, room, "  norm %.3g", record->grad_norm);
    fits = fits && add_field(&out, room, "  %s", rate);
    fits = fits && add_field(&out, room, "  real %.1f%%", real_percent(record));
    if (fits && record->skipped_steps > 0)
        add_field(&out, room, "  skipped %lld", (long long)record->skipped_steps);
    if (*left) add_field(&out, width, "%s", left);
    if (note && *note) add_field(&out, width, "  %s", note);
    return out.length;
}

/* ---- drawing ---- */

static void put(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = write(STDERR_FILENO, text, length);
        if (n <= 0) return;
        text += n;
        length -= (size_t)n;
    }
}

static void draw_locked(void)
{
    char line[TEXT_BYTES + 16];
    int n = snprintf(line, sizeof line, "\r%s\033[K", bar);
    put(line, (size_t)n);
    shown = true;
}

static void before_log(void)
{
    pthread_mutex_lock(&lock);
    if (shown) {
        put("\r\033[K", 4);
        shown = false;
        hidden_by_log = true;
    }
    pthread_mutex_unlock(&lock);
}

static void after_log(void)
{
    pthread_mutex_lock(&lock);
    if (hidden_by_log) draw_locked();
    hidden_by_log = false;
    pthread_mutex_unlock(&lock);
}

static void redraw(struct progress *progress)
{
    char text[TEXT_BYTES];
    int width = progress_width() - 1; /* a full last column makes some terminals wrap */
    if (progress->is_text)
        snprintf(text, sizeof text, "%.*s", width, progress->text);
    else
        progress_bar_text(text, sizeof text, width, &progress->last, progress->seconds_left, progress->note);
    pthread_mutex_lock(&lock);
    memcpy(bar, text, strlen(text) + 1);
    draw_locked();
    pthread_mutex_unlock(&lock);
    progress->drawn_ns = clock_monotonic_ns();
}

enum status progress_open(struct progress **out, enum progress_style style, int64_t first_step,
                          int64_t total_steps)
{
    struct progress *progress = memory_new(1, sizeof *progress);
    if (!progress) return LORAD_NOMEM;
    progress->style = progress_pick(style);
    progress->first_step = first_step;
    progress->total_steps = total_steps;
    progress->started_ns = clock_monotonic_ns();
    progress->last = (struct step_record){.total_steps = total_steps};
    progress->seconds_left = -1;
    if (progress->style == PROGRESS_BAR) {
        log_set_hooks(before_log, after_log);
        redraw(progress);
    }
    *out = progress;
    return LORAD_OK;
}

enum status progress_open_text(struct progress **out, enum progress_style style)
{
    struct progress *progress = memory_new(1, sizeof *progress);
    if (!progress) return LORAD_NOMEM;
    progress->style = progress_pick(style);
    progress->is_text = true;
    progress->drawn_ns = clock_monotonic_ns();
    if (progress->style == PROGRESS_BAR) log_set_hooks(before_log, after_log);
    *out = progress;
    return LORAD_OK;
}

void progress_text(struct progress *progress, const char *text)
{
    if (!progress) return;
    int64_t since = clock_monotonic_ns() - progress->drawn_ns;
    snprintf(progress->text, sizeof progress->text, "%s", text);
    if (progress->style == PROGRESS_BAR && (since >= REDRAW_NS || !shown)) redraw(progress);
    if (progress->style != PROGRESS_BAR && since >= line_ns) {
        log_info("%s", text);
        progress->drawn_ns = clock_monotonic_ns();
    }
}

void progress_close(struct progress *progress)
{
    if (!progress) return;
    if (progress->style == PROGRESS_BAR) {
        progress->note[0] = '\0';
        if (!progress->is_text || *progress->text) redraw(progress);
        pthread_mutex_lock(&lock);
        if (shown) put("\n", 1);
        shown = hidden_by_log = false;
        pthread_mutex_unlock(&lock);
        log_set_hooks(NULL, NULL);
    }
    free(progress);
}

static void print_step(const struct progress *progress)
{
    const struct step_record *record = &progress->last;
    char rate[32], left[32];
    rate_text(rate, record);
    progress_duration(left, progress->seconds_left);
    char skipped[48] = "";
    if (record->skipped_steps > 0)
        snprintf(skipped, sizeof skipped, "  skipped %lld", (long long)record->skipped_steps);
    bool staged = record->stage && *record->stage;
    log_info("step %lld/%lld  %s%sepoch %.2f  loss %.4f  lr %.3e  norm %.3g  %s  real %.1f%%%s  left %s",
             (long long)record->step, (long long)record->total_steps, staged ? record->stage : "",
             staged ? "  " : "", record->epoch, record->loss, record->learning_rate, record->grad_norm, rate,
             real_percent(record), skipped, left);
}

void progress_step(struct progress *progress, const struct step_record *record, bool logged)
{
    if (!progress) return;
    int64_t done = record->step - progress->first_step;
    double elapsed = clock_seconds_since(progress->started_ns);
    progress->last = *record;
    progress->note[0] = '\0';
    progress->seconds_left =
        done > 0 ? elapsed / (double)done * (double)(record->total_steps - record->step) : 0;
    if (progress->style == PROGRESS_BAR) {
        bool last = record->step >= record->total_steps;
        if (last || clock_monotonic_ns() - progress->drawn_ns >= REDRAW_NS) redraw(progress);
    } else if (logged) {
        print_step(progress);
    }
}

double progress_seconds_left(const struct progress *progress)
{
    return progress ? progress->seconds_left : -1;
}

void progress_rested(struct progress *progress, int64_t ns)
{
    if (progress) progress->started_ns += ns;
}

void progress_eval(struct progress *progress, const struct eval_record *record)
{
    if (!progress) return;
    log_info("step %lld  eval loss %.4f  token accuracy %.2f%%  %lld tokens in %.1f s%s",
             (long long)record->step, record->loss, 100 * record->token_accuracy, (long long)record->tokens,
             record->seconds, record->best ? "  best so far" : "");
}

void progress_note(struct progress *progress, const char *text)
{
    if (!progress || progress->style != PROGRESS_BAR) return;
    snprintf(progress->note, sizeof progress->note, "%s", text);
    redraw(progress);
}
