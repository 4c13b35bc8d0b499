/*
 * verb_control.c: the verbs on a running job: status, pause, resume, checkpoint, stop, set.
 *
 * What is asked is answered by the run, at the end of its step: these verbs wait for that. Who does not want
 * to wait ends the verb: the request stays with the run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "launch/config_impl.h"
#include "launch/find_run.h"
#include "launch/status_text.h"
#include "launch/verbs.h"

enum { SAY_AFTER_MS = 3000, WATCH_MS = 1000, STATUS_MS = 10000 };

static struct coord_command request_of(const char *verb, int64_t at_step)
{
    struct coord_command request = {.at_step = at_step};
    snprintf(request.id, sizeof request.id, "1");
    snprintf(request.verb, sizeof request.verb, "%s", verb);
    return request;
}

/* ---- pause, resume, checkpoint, stop, set ---- */

/* The replies to `n` requests; what they say is printed. The first failure is returned, others are logged. */
static enum status hear_all(struct control *control, size_t n)
{
    enum status first = LORAD_OK;
    char why[1024] = "";
    bool said = false;
    while (n > 0) {
        struct control_reply reply;
        bool got;
        TRY(control_receive(control, &reply, SAY_AFTER_MS, &got));
        if (!got && !said) log_info("waiting for the run; the request stays with it when you end this");
        said = said || !got;
        if (!got) continue;
        n--;
        if (reply.status == LORAD_OK) {
            printf("%s\n", reply.text);
        } else if (first == LORAD_OK) {
            first = reply.status;
            snprintf(why, sizeof why, "%s", reply.text);
        } else {
            log_error("%s", reply.text);
        }
        control_reply_free(&reply);
    }
    fflush(stdout);
    return first == LORAD_OK ? LORAD_OK : FAIL(first, "%s", why);
}

static enum status ask_all(const struct command *command, const char *word,
                           const struct coord_command *requests, size_t n)
{
    struct found_run found;
    struct control *control = NULL;
    TRY(find_run(&found, command, word));
    enum status status = control_open(&control, &found.target);
    for (size_t i = 0; i < n && status == LORAD_OK; i++) status = control_send(control, &requests[i]);
    if (status == LORAD_OK) status = hear_all(control, n);
    control_close(control);
    found_run_free(&found);
    return status;
}

enum status verb_ask(const struct command *command)
{
    struct coord_command request = request_of(command->verb->name, command->at_step);
    if (command->now) snprintf(request.value, sizeof request.value, "now");
    if (command->now && command->at_step > 0)
        return FAIL(LORAD_USAGE, "--now and --at-step contradict each other: remove one");
    return ask_all(command, command->word, &request, 1);
}

/* "learning_rate=1e-5"; other names of a key are turned into its own. */
static enum status read_assignment(struct coord_command *out, const struct command *command, const char *word,
                                   size_t number)
{
    size_t n = strcspn(word, "=");
    const char *value = word + n + 1;
    *out = request_of("set", command->at_step);
    snprintf(out->id, sizeof out->id, "%zu", number + 1);
    if (n == 0 || n >= sizeof out->key || !*value || strlen(value) >= sizeof out->value)
        return FAIL(LORAD_USAGE, "set: \"%.200s\" is no KEY=VALUE", word);
    snprintf(out->key, sizeof out->key, "%.*s", (int)n, word);
    snprintf(out->value, sizeof out->value, "%s", value);
    int i = config_key_find(out->key);
    if (i >= 0) snprintf(out->key, sizeof out->key, "%s", config_keys[i].name);
    const char *nearest = i < 0 ? config_key_nearest(out->key) : NULL;
    if (i < 0 && nearest) return FAIL(LORAD_USAGE, "%s is no key; did you mean %s?", out->key, nearest);
    return i < 0 ? FAIL(LORAD_USAGE, "%s is no key; see `lorad help`", out->key) : LORAD_OK;
}

enum status verb_set(const struct command *command)
{
    const char *where = NULL;
    size_t n = 0;
    struct coord_command *requests = calloc(command->n_words + 1, sizeof *requests);
    enum status status = requests ? LORAD_OK : FAIL(LORAD_NOMEM, "out of memory");
    for (size_t i = 0; i < command->n_words && status == LORAD_OK; i++) {
        const char *word = command->words[i];
        if (strchr(word, '=') && !file_is_dir(word)) {
            status = read_assignment(&requests[n], command, word, n);
            n++;
        } else if (where) {
            status = FAIL(LORAD_USAGE, "\"%s\" and \"%s\" both say which run: give one of them", where, word);
        } else {
            where = word;
        }
    }
    if (status == LORAD_OK && n == 0)
        status = FAIL(LORAD_USAGE, "set what? lorad set [NAME|DIR] KEY=VALUE ...");
    if (status == LORAD_OK) status = ask_all(command, where, requests, n);
    free(requests);
    return status;
}

/* ---- status ---- */

static enum status print(const struct strbuf *text)
{
    TRY(strbuf_status(text));
    if (fputs(strbuf_text(text), stdout) < 0 || fflush(stdout) != 0)
        return FAIL(LORAD_IO, "cannot write to standard output");
    return LORAD_OK;
}

/* One question and its answer, appended. */
static enum status ask_status(struct strbuf *out, struct control *control, bool json)
{
    struct coord_command request = request_of("status", 0);
    struct control_reply reply;
    struct json *run = NULL;
    bool got;
    TRY(control_send(control, &request));
    TRY(control_receive(control, &reply, STATUS_MS, &got));
    if (!got)
        return FAIL(LORAD_PEER_LOST,
                    "the run does not answer within %d s: its process is stopped, or the "
                    "machine is overloaded",
                    STATUS_MS / 1000);
    enum status status = reply.status;
    if (status != LORAD_OK) status = FAIL(status, "%s", reply.text);
    if (status == LORAD_OK && !reply.run) status = FAIL(LORAD_DATA, "the run's reply holds no status");
    if (status == LORAD_OK && !json)
        status = js_parse(&run, reply.run, strlen(reply.run), "the run's status");
    if (status == LORAD_OK && json)
        strbuf_printf(out, "%s\n", reply.run);
    else if (status == LORAD_OK)
        status_text(out, run, clock_unix_seconds());
    js_destroy(run);
    control_reply_free(&reply);
    return status;
}

/* What the files say of a run that does not answer; false: nothing. */
static bool look_at_files(struct strbuf *out, const struct control_target *target, bool json)
{
    struct control_sight sight;
    if (!target->output_dir) return false;
    control_look(&sight, target->output_dir);
    if (!sight.known) return false;
    int64_t committed = run_committed(target->output_dir).step;
    if (json) {
        sight_json(out, &sight, target->output_dir, committed);
        strbuf_putc(out, '\n');
    } else {
        sight_text(out, &sight, target->output_dir, committed);
    }
    status_clear();
    return true;
}

/* Until the run ends. On a terminal each picture stands in the place of the one before. */
static enum status watch(struct control *control, const struct control_target *target, bool json)
{
    bool redraw = isatty(STDOUT_FILENO) && !json;
    enum status status = LORAD_OK;
    for (bool alive = true; alive && status == LORAD_OK;) {
        struct strbuf text = STRBUF_EMPTY;
        if (redraw) strbuf_puts(&text, "\033[H\033[J");
        alive = ask_status(&text, control, json) == LORAD_OK;
        if (!alive) {
            strbuf_clear(&text);
            clock_sleep_ms(WATCH_MS / 2); /* its last heartbeat comes after its last answer */
            if (!look_at_files(&text, target, json))
                status = FAIL(LORAD_PEER_LOST, "the run answers no more, and its files say nothing");
        }
        if (status == LORAD_OK) status = print(&text);
        strbuf_free(&text);
        if (alive) clock_sleep_ms(WATCH_MS);
    }
    return status;
}

static enum status show(struct control *control, const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    enum status status = ask_status(&text, control, command->json);
    if (status == LORAD_OK) status = print(&text);
    strbuf_free(&text);
    return status;
}

/* A Redis was named, but no run, and there is none in the present folder. */
static bool means_all_runs(const struct command *command, const struct control_target *target)
{
    return target->redis_url && !command->word && !command->config_path &&
           (command->redis_url || !file_exists("heartbeat.json"));
}

static enum status show_runs(const struct control_target *target, bool json)
{
    struct control_run *runs;
    struct strbuf text = STRBUF_EMPTY;
    size_t n;
    TRY(control_list(&runs, &n, target));
    if (json)
        runs_json(&text, runs, n);
    else
        runs_text(&text, runs, n);
    free(runs);
    enum status status = print(&text);
    strbuf_free(&text);
    return status;
}

enum status verb_status(const struct command *command)
{
    struct found_run found;
    struct control *control = NULL;
    struct strbuf text = STRBUF_EMPTY;
    TRY(find_run(&found, command, command->word));
    if (means_all_runs(command, &found.target)) {
        enum status listed = show_runs(&found.target, command->json);
        found_run_free(&found);
        return listed;
    }
    enum status status = control_open(&control, &found.target);
    if (status == LORAD_OK) {
        status = command->watch ? watch(control, &found.target, command->json) : show(control, command);
    } else {
        char why[1024]; /* looking at files forgets it */
        snprintf(why, sizeof why, "%s", status_message());
        status = look_at_files(&text, &found.target, command->json) ? print(&text) : FAIL(status, "%s", why);
    }
    strbuf_free(&text);
    control_close(control);
    found_run_free(&found);
    return status;
}
