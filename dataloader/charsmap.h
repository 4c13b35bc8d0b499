/*
 * charsmap.h: SentencePiece's precompiled normalisation rules (precompiled_charsmap), run as Hugging Face's
 * Precompiled normalizer does (inside the dataloader folder only).
 */
#ifndef LORAD_DATALOADER_CHARSMAP_H
#define LORAD_DATALOADER_CHARSMAP_H

#include <stddef.h>

#include "base/status.h"
#include "dataloader/textbuf.h"

struct charsmap;

/* Reads the bytes of a map (untrusted; copied). Owns: *out. LORAD_DATA says what is wrong. */
enum status charsmap_create(struct charsmap **out, const char *bytes, size_t length,
                            const char *where) LORAD_WARN_UNUSED;
/* The same from base64 text, as tokenizer.json holds it. */
enum status charsmap_create_base64(struct charsmap **out, const char *text, size_t length,
                                   const char *where) LORAD_WARN_UNUSED;
void charsmap_destroy(struct charsmap *map);

/* Appends the normalised `in` (valid UTF-8) to `out`. */
enum status charsmap_run(const struct charsmap *map, struct textbuf *out,
                         const struct textbuf *in) LORAD_WARN_UNUSED;

#endif
