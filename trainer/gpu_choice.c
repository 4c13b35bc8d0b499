#include "trainer/gpu_choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "comm/comm.h"

static bool takes(const struct gpu_sight *sight, int number, const struct device_id *gpu)
{
    return number >= 0 && memcmp(&sight->gpu[number], gpu, sizeof *gpu) == 0;
}

/* Of the first `size` ranks, which have chosen. */
static int count_takers(const struct gpu_sight *all, const int *number, int size, const struct device_id *gpu)
{
    int takers = 0;
    for (int r = 0; r < size; r++) takers += takes(&all[r], number[r], gpu);
    return takers;
}

/* number [size]: -1 for a rank that sees none. */
static void deal(int *number, const struct gpu_sight *all, int size)
{
    for (int r = 0; r < size; r++) {
        int least = size;
        number[r] = -1;
        for (int i = 0; i < all[r].n && least > 0; i++) {
            int takers = count_takers(all, number, r, &all[r].gpu[i]);
            if (takers >= least) continue;
            least = takers;
            number[r] = i;
        }
    }
}

/* "GPU-5fd4f087-86f3-7a43-b711-4771313afc50", as nvidia-smi -L has it. */
static void name_gpu(char words[48], const struct device_id *gpu)
{
    char *at = words + sprintf(words, "GPU");
    for (int i = 0; i < 16; i++)
        at +=
            sprintf(at, "%s%02x", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", gpu->bytes[i]);
}

static enum status sees_none(const struct gpu_sight *all, int size, int rank)
{
    for (int r = 0; r < size; r++)
        if (all[r].n > 0)
            return FAIL(LORAD_CONFIG,
                        "device: rank %d on host %s sees no GPU, and rank %d on host %s does; device: cuda "
                        "tells why, device: cpu uses none",
                        rank, all[rank].host, r, all[r].host);
    return LORAD_OK;
}

enum status gpu_share_out(struct gpu_choice *out, const struct gpu_sight *all, int size, int rank)
{
    const struct gpu_sight *mine = &all[rank];
    *out = (struct gpu_choice){.sharers = 1};
    if (mine->n == 0) return sees_none(all, size, rank);
    int *number = memory_new((size_t)size, sizeof *number), other = 0;
    if (!number) return LORAD_NOMEM;
    deal(number, all, size);
    const struct device_id *gpu = &mine->gpu[number[rank]];
    *out = (struct gpu_choice){number[rank], count_takers(all, number, size, gpu)};
    while (!takes(&all[other], number[other], gpu)) other++;
    free(number);
    if (other == rank || mine->may_share) return LORAD_OK;
    char name[48];
    name_gpu(name, gpu);
    return FAIL(
        LORAD_CONFIG,
        "device: ranks %d and %d of host %s would both use %s: rank %d sees %d GPU%s, and other ranks "
        "have %s; start at most one rank per GPU, and where a rank is shown a single one "
        "(CUDA_VISIBLE_DEVICES), show each another",
        other, rank, mine->host, name, rank, mine->n, mine->n == 1 ? "" : "s", mine->n == 1 ? "it" : "them");
}

static enum status look(struct gpu_sight *out, const char *kind)
{
    const char *share = getenv("LORAD_SHARE_GPU");
    struct gpu_sight sight = {.may_share = share && strcmp(share, "1") == 0};
    int n = 0;
    gethostname(sight.host, sizeof sight.host - 1);
    TRY(device_list(sight.gpu, &n, GPU_SIGHT_MOST, kind));
    sight.n = n;
    *out = sight;
    return LORAD_OK;
}

static enum status take(struct gpu_choice *out, const struct gpu_sight *all, const struct comm *comm,
                        const char *kind)
{
    bool any = strcmp(kind, "auto") == 0; /* else opening the device says why there is none */
    int rank = comm_rank(comm);
    return all[rank].n > 0 || any ? gpu_share_out(out, all, comm_size(comm), rank) : LORAD_OK;
}

static enum status choose_among_ranks(struct gpu_choice *out, struct comm *comm, const char *kind)
{
    size_t size = (size_t)comm_size(comm);
    struct gpu_sight mine = {0}, *all = memory_new(size, sizeof *all);
    enum status status = comm_agree(comm, all ? look(&mine, kind) : LORAD_NOMEM);
    if (status == LORAD_OK) status = comm_host_all_gather(comm, &mine, all, sizeof mine);
    if (status == LORAD_OK) status = comm_agree(comm, take(out, all, comm, kind));
    free(all);
    return status;
}

enum status gpu_choose(struct gpu_choice *out, const char *kind)
{
    struct comm *comm = NULL;
    *out = (struct gpu_choice){.sharers = 1};
    if (strcmp(kind, "cpu") == 0) return LORAD_OK;
    TRY(comm_create(&comm, &(struct comm_options){.kind = "auto"}));
    enum status status = comm_size(comm) > 1 ? choose_among_ranks(out, comm, kind) : LORAD_OK;
    comm_destroy(comm);
    return status;
}
