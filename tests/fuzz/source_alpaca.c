/* A file of training rows, read as alpaca: see sources.h. */
#include "sources.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    return fuzz_source(&source_alpaca, bytes, length);
}
