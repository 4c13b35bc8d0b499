/*
 * saver_rig.h: an adapter on any layout of ranks and a saver for it, without a model: each step's values are
 * known for every element of every whole factor, so that a checkpoint can be checked wherever it was written.
 */
#ifndef LORAD_TESTS_SUPPORT_SAVER_RIG_H
#define LORAD_TESTS_SUPPORT_SAVER_RIG_H

#include "trainer/saver.h"

struct saver_rig {
    struct run_options options;
    struct session session;
    struct run_identity identity;
    struct run_state state;
    struct saver saver;
    struct boundary_report *reports; /* [world] */
};

/* Collective over the world. Borrows: fs, output_dir. Owns: *out. */
enum status saver_rig_open(struct saver_rig **out, const char *output_dir, struct fs *fs, int32_t tp,
                           const struct comm_world_info *world) LORAD_WARN_UNUSED;
void saver_rig_close(struct saver_rig *rig);

/* The update that a step ends with: waits at the gate, then writes the values of `step`. */
enum status saver_rig_update(struct saver_rig *rig, int64_t step) LORAD_WARN_UNUSED;
/* The exchange of a step boundary. Collective. */
enum status saver_rig_boundary(struct saver_rig *rig) LORAD_WARN_UNUSED;
/* Saves what the last update left. Collective. */
enum status saver_rig_save(struct saver_rig *rig) LORAD_WARN_UNUSED;

/* Whether the checkpoint of `step`, attempt `attempt`, is whole and holds its values, also in PEFT's form. */
enum status saver_rig_verify(const struct saver_rig *rig, int64_t step, int32_t attempt) LORAD_WARN_UNUSED;

#endif
