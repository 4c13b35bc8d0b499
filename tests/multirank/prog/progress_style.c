/* Prints what `progress: auto` comes to for a rank: "bar" or "lines". */
#include <stdio.h>

#include "comm/comm.h"
#include "trainer/progress.h"

int main(void)
{
    struct comm_world_info info;
    if (comm_startup(&info) != LORAD_OK) return 1;
    if (info.rank == 0) printf("style: %s\n", progress_pick(PROGRESS_AUTO) == PROGRESS_BAR ? "bar" : "lines");
    comm_shutdown();
    return 0;
}
