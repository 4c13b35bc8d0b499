/* A file of training rows, read as csv: see sources.h. */
#include "sources.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    return fuzz_source(&source_csv, bytes, length);
}
