/* A file of training rows, read as tsv: see sources.h. */
#include "sources.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    return fuzz_source(&source_tsv, bytes, length);
}
