/* nearest.h: "did you mean": the known word that a mistyped one is closest to. */
#ifndef LORAD_LAUNCH_NEAREST_H
#define LORAD_LAUNCH_NEAREST_H

#include <stddef.h>

/* Keeps the best candidate seen. Start: {word, NULL, 0}. */
struct nearest {
    const char *word;
    const char *best; /* NULL: nothing near yet; borrowed from the candidate */
    int distance;
};

/* Considers the first `length` bytes of `candidate`. Near: at most a third of the word's letters differ
 * (insert, delete, replace, swap of neighbours; '-' and '_' and case count as equal). */
void nearest_consider(struct nearest *nearest, const char *candidate, size_t length);

#endif
