/*
 * fuzz_replay.c: runs a fuzz target without a fuzzer: over each file of the folders named as arguments, and
 * over a fixed number of mutations of each (cut short, bytes changed, a piece repeated), the same ones in
 * every run.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/random.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

enum { MAX_BYTES = 16 << 20, MUTATIONS = 64, MUTATED_MAX_BYTES = 64 << 10 };

/* An exact allocation, so that a sanitizer sees any read behind the end. */
static void run(const char *bytes, size_t length)
{
    uint8_t *copy = calloc(length ? length : 1, 1);
    if (!copy) abort();
    if (length) memcpy(copy, bytes, length);
    (void)LLVMFuzzerTestOneInput(copy, length);
    free(copy);
}

static void run_mutations(const char *bytes, size_t length)
{
    if (length == 0 || length > MUTATED_MAX_BYTES) return;
    char *copy = malloc(2 * length);
    if (!copy) abort();
    for (uint64_t i = 0; i < MUTATIONS; i++) {
        struct random_block dice = random_philox((uint64_t)length, 0, i);
        size_t n = length, at = dice.word[1] % length;
        memcpy(copy, bytes, length);
        switch (dice.word[0] % 4) {
        case 0:
            n = at;
            break;
        case 1:
            copy[at] ^= (char)(1u << dice.word[2] % 8);
            break;
        case 2:
            copy[at] = (char)dice.word[2];
            break;
        case 3: /* bytes [at, at + more) twice */
        {
            size_t more = dice.word[2] % (length - at) + 1;
            memcpy(copy + at + more, bytes + at, length - at);
            n = length + more;
            break;
        }
        }
        run(copy, n);
    }
    free(copy);
}

static int run_folder(const char *folder)
{
    int n = 0;
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);
    if (count < 0) {
        if (errno == ENOENT) return 0;
        perror(folder);
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        char *path = file_join(folder, entries[i]->d_name), *bytes;
        size_t length;
        if (path && entries[i]->d_name[0] != '.') {
            if (file_read(&bytes, &length, path, MAX_BYTES) != LORAD_OK) {
                fprintf(stderr, "%s\n", status_message());
                exit(1);
            }
            run(bytes, length);
            run_mutations(bytes, length);
            free(bytes);
            n++;
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    run("", 0);
    for (int i = 1; i < argc; i++) n += run_folder(argv[i]);
    printf("%d files of the corpus and %d mutations of each\n", n, MUTATIONS);
    return 0;
}
