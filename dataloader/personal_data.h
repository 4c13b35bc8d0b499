/* personal_data.h: the patterns behind row_inspect.h, for one text (inside the dataloader folder only). */
#ifndef LORAD_DATALOADER_PERSONAL_DATA_H
#define LORAD_DATALOADER_PERSONAL_DATA_H

#include <stdbool.h>
#include <stddef.h>

#include "dataloader/row_inspect.h"

struct personal_data {
    enum finding_kind kind;
    size_t offset, length;
};

/* The first piece of personal data at or behind `from`; false: none. Valid UTF-8. Pieces never overlap when
 * the search goes on at offset + length. */
bool personal_data_find(struct personal_data *out, const char *text, size_t length, size_t from);

#endif
