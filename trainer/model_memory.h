/* model_memory.h: names every buffer of a model once, for measuring and for handing out. For model.c only. */
#ifndef LORAD_TRAINER_MODEL_MEMORY_H
#define LORAD_TRAINER_MODEL_MEMORY_H

#include "trainer/model_parts.h"

/* Fills the panel specs and spare columns of all layers and of the head from arch, part, lora and options. */
void model_describe_panels(struct model *model);

/* Takes every buffer from the arenas, in order; with measuring arenas only their used_bytes matter. */
enum status model_take_memory(struct model *model, struct arena *weights, struct arena *saved,
                              struct arena *scratch) LORAD_WARN_UNUSED;

#endif
