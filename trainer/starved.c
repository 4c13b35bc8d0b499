/*
 * Linux: /proc/self/task/TID/schedstat is "nanoseconds on a processor, nanoseconds waiting for one, turns". A
 * wait is added when it is over; of a thread that is runnable now (state R in stat), what it did not run
 * counts.
 */
#include "trainer/starved.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_file(char text[512], const char *thread, const char *name)
{
    char path[80];
    snprintf(path, sizeof path, "/proc/self/task/%.16s/%s", thread, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, 511);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static bool is_runnable(const char *thread)
{
    char text[512];
    const char *end = read_file(text, thread, "stat") ? strrchr(text, ')') : NULL;
    return end && end[1] == ' ' && end[2] == 'R';
}

static bool look_at(struct starved_thread *now, const char *thread)
{
    char text[512], *rest;
    if (!read_file(text, thread, "schedstat")) return false;
    now->thread = (int32_t)atoi(thread);
    now->ran_ns = strtoll(text, &rest, 10);
    now->delay_ns = strtoll(rest, NULL, 10);
    return true;
}

/* Where the thread's last figures stand; NULL: it is new, and stands there now. */
static struct starved_thread *find(struct starved *starved, const struct starved_thread *now)
{
    for (int i = 0; i < starved->n; i++)
        if (starved->seen[i].thread == now->thread) return &starved->seen[i];
    if (starved->n < STARVED_THREADS) starved->seen[starved->n++] = *now;
    return NULL;
}

int64_t starved_ns(struct starved *starved, int64_t gap_ns)
{
    int64_t most = 0;
    int32_t self = (int32_t)gettid();
    DIR *threads = opendir("/proc/self/task");
    if (!threads) return 0;
    for (struct dirent *entry; (entry = readdir(threads));) {
        struct starved_thread now;
        if (entry->d_name[0] == '.' || !look_at(&now, entry->d_name) || now.thread == self) continue;
        struct starved_thread *last = find(starved, &now);
        if (!last) continue;
        int64_t waited = now.delay_ns - last->delay_ns, idle = gap_ns - (now.ran_ns - last->ran_ns);
        if (idle > waited && is_runnable(entry->d_name)) waited = idle;
        if (waited > most) most = waited;
        *last = now;
    }
    closedir(threads);
    return most < gap_ns ? most : gap_ns;
}
