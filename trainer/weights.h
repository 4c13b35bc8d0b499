/*
 * weights.h: the frozen base from a Hugging Face folder into a model's panels, norms and embedding: only this
 * rank's slices are read.
 */
#ifndef LORAD_TRAINER_WEIGHTS_H
#define LORAD_TRAINER_WEIGHTS_H

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/safetensors.h"
#include "trainer/model.h"

/* Checks that every tensor the architecture needs is there with its shape and a float dtype, and that there
 * is none that would change the arithmetic. LORAD_DATA names the tensor. */
enum status weights_check(const struct st_set *set, const struct arch *arch) LORAD_WARN_UNUSED;

/* Loads this rank's part, read by `threads` threads, and seals the panels. LORAD_DATA for a value that is not finite;
 * LORAD_REQUEUE when this rank was asked to stop (request.h). */
enum status weights_load(struct model *model, const struct st_set *set, int threads) LORAD_WARN_UNUSED;

#endif
