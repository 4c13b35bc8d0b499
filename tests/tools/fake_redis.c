/* fake_redis SOCKET KIND: a server that does everything wrong, until it is killed. Kinds: redis_server.h. */
#include <stdio.h>
#include <string.h>

#include "support/redis_server.h"

int main(int argc, char **argv)
{
    for (int kind = 0; argc == 3 && kind < FAKES; kind++)
        if (strcmp(argv[2], fake_redis_names[kind]) == 0) fake_redis_serve(argv[1], (enum fake_redis)kind);
    fprintf(stderr, "fake_redis SOCKET KIND, one of:");
    for (int kind = 0; kind < FAKES; kind++) fprintf(stderr, " %s", fake_redis_names[kind]);
    fprintf(stderr, "\n");
    return 64;
}
