#include "comm/comm_impl.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static uint64_t pid_space(void)
{
    struct stat info;
    return stat("/proc/self/ns/pid", &info) == 0 ? (uint64_t)info.st_ino : 0;
}

static void *map(int fd, size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void *map_of(const struct comm_peer *first, size_t bytes)
{
    void *memory = NULL;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", first->pid, first->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat info;
    if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size == (off_t)bytes) memory = map(fd, bytes);
    if (fd >= 0) close(fd);
    return memory;
}

/* Rank 0 makes the file, the others open it. */
static enum status map_everywhere(void **out, struct comm_peer *mine, struct comm_peer *peers,
                                  const struct comm_sharing *s)
{
    *mine = (struct comm_peer){.pid = (int32_t)getpid(),
                               .fd = -1,
                               .ready = s->wanted,
                               .world_rank = s->world_rank,
                               .pid_space = pid_space()};
    if (s->rank == 0 && s->wanted) {
        mine->fd = memfd_create("lorad-comm", MFD_CLOEXEC);
        if (mine->fd >= 0 && ftruncate(mine->fd, (off_t)s->bytes) == 0) *out = map(mine->fd, s->bytes);
        mine->ready = *out != NULL;
    }
    TRY(s->gather(s->group, mine, peers, sizeof *mine));
    const struct comm_peer *first = &peers[0];
    if (s->rank != 0 && s->wanted && first->ready && first->pid_space == mine->pid_space)
        *out = map_of(first, s->bytes);
    mine->ready = *out != NULL;
    return s->gather(s->group, mine, peers, sizeof *mine);
}

enum status comm_share_memory(void **out, struct comm_peer *peers, const struct comm_sharing *sharing)
{
    struct comm_peer mine;
    void *memory = NULL;
    enum status status = map_everywhere(&memory, &mine, peers, sharing);
    if (mine.fd >= 0) close(mine.fd);
    for (int r = 0; status == LORAD_OK && r < sharing->size && memory; r++) {
        if (peers[r].ready) continue;
        log_debug("rank %d cannot share memory with its peers", peers[r].world_rank);
        munmap(memory, sharing->bytes);
        memory = NULL;
    }
    if (status != LORAD_OK && memory) munmap(memory, sharing->bytes);
    if (status == LORAD_OK) *out = memory;
    return status;
}
