/* model.safetensors.index.json beside two good files. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "checkpoint/safetensors.h"
#include "support/test.h"

static char index_path[700];

static void make_files(void)
{
    char path[700];
    float values[2] = {1, 2};
    struct st_item one = {"one", ST_F32, 1, {2}, values}, two = {"two", ST_F32, 1, {1}, values};
    snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", test_tmpdir());
    snprintf(path, sizeof path, "%s/a.safetensors", test_tmpdir());
    if (st_write_file(fs_posix(), path, &one, 1) != LORAD_OK) abort();
    snprintf(path, sizeof path, "%s/b.safetensors", test_tmpdir());
    if (st_write_file(fs_posix(), path, &two, 1) != LORAD_OK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (!index_path[0]) make_files();
    FILE *file = fopen(index_path, "wb");
    if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
    struct st_set *set;
    if (st_open_dir(&set, test_tmpdir()) == LORAD_OK) {
        /* Accepted only when it says what the files say. */
        if (st_count(set) == 0 || (st_find(set, "one") && st_find(set, "one")->size_bytes != 8)) abort();
        st_close(set);
    }
    return 0;
}
