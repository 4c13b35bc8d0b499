/*
 * checkpoint.h: committed, verified, resumable states of a run. Host bytes only: the trainer brings tensors
 * to the host, carries receipts between ranks, and decides together (this folder never communicates).
 *
 *   OUT/ckpt/s<step>.e<epoch>.a<try>/   one folder per attempt; two writers can never share a path
 *       shard-<rank>-of-<world>.zst     byte planes, zstd, hashes of raw and compressed bytes
 *       adapter_model.safetensors, adapter_config.json     PEFT loads the folder as it stands
 *       MANIFEST.json                   its appearance is the commit
 *   OUT/checkpoint-<step> -> ckpt/...   relative link, swapped after the commit
 *   OUT/quarantine/, OUT/trash/
 * Format and protocol: docs/formats/checkpoint.md.
 *
 * Save, all ranks: checkpoint_begin -> checkpoint_write_shard -> gather receipts -> rank 0: checkpoint_commit
 * -> tell the outcome -> the other ranks: checkpoint_finish. On an error before the commit all ranks
 * call checkpoint_abandon; training goes on, and the next try takes another attempt number.
 * Load: checkpoint_list (newest first, fenced ones left out by the caller's filter) -> checkpoint_open ->
 * checkpoint_read (any slice of any logical tensor, whatever layout wrote it) -> or checkpoint_quarantine and
 * the next.
 *
 * The functions block. Thread: a save may be written while another one is committed or collected; each
 * writer is used by one thread at a time.
 */
#ifndef LORAD_CHECKPOINT_CHECKPOINT_H
#define LORAD_CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "base/fs.h"

/* A piece of a logical f32/i64/... tensor that this rank holds: rows and columns of the whole [shape0,
 * shape1]. */
struct checkpoint_piece {
    const char *name;   /* "adam.m.model.layers.0.self_attn.q_proj.lora_A" ... unique in the checkpoint */
    int32_t item_bytes; /* 1, 2, 4 or 8: the width of a byte plane group */
    const char *dtype;  /* "F32", "I64": as in safetensors */
    int64_t shape[2];   /* of the whole tensor */
    int64_t row, rows, col, cols;
    const void *data; /* dense [rows, cols] host memory */
};

enum { CHECKPOINT_NAME_BYTES = 64 };

struct checkpoint_id {
    int64_t step;
    int64_t epoch; /* fencing epoch */
    int32_t attempt;
};
/* "s000000120.e0000003.a0" */
void checkpoint_id_name(struct checkpoint_id id, char text[CHECKPOINT_NAME_BYTES]);

/* What a rank tells rank 0 after writing its shard: plain data, may travel as bytes. */
struct checkpoint_receipt {
    int32_t rank;
    int32_t ok; /* 0: writing failed on that rank */
    int64_t raw_bytes, file_bytes;
    struct hash128 raw_hash, file_hash;
    struct hash128 index_hash; /* of the shard's tensor index */
};

struct checkpoint_writer; /* one save in progress on one rank */

/* Creates OUT, OUT/ckpt and OUT/ckpt/<id> where missing (any rank may come first) and checks that at least
 * `need_bytes` are free. LORAD_IO (no space), LORAD_CANNOT_CREATE (also when <id> is already committed).
 * Owns: *out. */
enum status checkpoint_begin(struct checkpoint_writer **out, struct fs *fs, const char *output_dir,
                             struct checkpoint_id id, int rank, int world,
                             int64_t need_bytes) LORAD_WARN_UNUSED;
/* How the shard is packed: zstd's level (1 without this call) and so many threads at once (1). Neither
 * matters to a reader; threads do not change a bit. */
void checkpoint_writer_pack(struct checkpoint_writer *writer, int32_t level, int32_t threads);
/* Writes this rank's shard, durable (a rank without pieces writes an empty one). The receipt is always
 * filled; its ok says whether the shard stands. */
enum status checkpoint_write_shard(struct checkpoint_writer *writer, const struct checkpoint_piece *pieces,
                                   size_t n, struct checkpoint_receipt *receipt) LORAD_WARN_UNUSED;
/* The folder being written, so that the trainer can export the adapter into it before the commit. Files put
 * there must be durable (adapter_write, fs_write_file) and plain; names with a leading '.', "shard-" or
 * "MANIFEST." are lorad's own. Borrowed. */
const char *checkpoint_writer_dir(const struct checkpoint_writer *writer);
/* A file there whose hash and length its writer knows (adapter_write): commit need not read it again. */
void checkpoint_note_file(struct checkpoint_writer *writer, const char *name, struct hash128 hash,
                          int64_t bytes);
/* Rank 0: checks every receipt and shard size, hashes extra files in the folder into the manifest, publishes
 * MANIFEST.json with `state_json` (an object: step, schedule, cursors, ... the trainer's own) and swaps the
 * link checkpoint-<step> (best effort). `is_owner` (NULL: not asked) is called right before publishing; what
 * it returns, such as LORAD_FENCED, is returned. Frees the writer in every case; a failed one is abandoned.
 */
enum status checkpoint_commit(struct checkpoint_writer *writer, const struct checkpoint_receipt *receipts,
                              int world, const char *state_json, enum status (*is_owner)(void *context),
                              void *context) LORAD_WARN_UNUSED;
/* Other ranks, after the outcome is known: frees the writer. */
void checkpoint_finish(struct checkpoint_writer *writer);
/* Removes what this rank wrote (rank 0: the whole folder) and frees the writer. A folder whose manifest
 * appeared in spite of an error is left as it is. Keeps status_message(). NULL ok. */
void checkpoint_abandon(struct checkpoint_writer *writer);
/* Rank 0's part of that without a writer, which checkpoint_begin did not make: removes what other ranks wrote
 * of <id>. */
void checkpoint_discard(struct fs *fs, const char *output_dir, struct checkpoint_id id);

/* ---- finding and reading ---- */

struct checkpoint_entry {
    struct checkpoint_id id;
    char name[CHECKPOINT_NAME_BYTES];
    bool committed; /* MANIFEST.json is there */
    bool pinned;    /* PINNED is there: collection leaves it alone */
};
/* All folders of OUT/ckpt, newest first (step, then epoch, then attempt, descending); none is no error. Owns:
 * *out (free). */
enum status checkpoint_list(struct checkpoint_entry **out, size_t *n,
                            const char *output_dir) LORAD_WARN_UNUSED;

/* An opened, manifest-verified checkpoint. Thread: one at a time. */
struct checkpoint;

/* `dir`: the folder, or a link to it. Checks the manifest's own hash, limits, every shard's index, and the
 * size of every file; with `verify` also the hash of every file. LORAD_DATA: damaged (say so and quarantine);
 * LORAD_CONFIG: whole, but of a version that this lorad does not read; LORAD_NOT_FOUND: not committed. Owns.
 */
enum status checkpoint_open(struct checkpoint **out, const char *dir, bool verify) LORAD_WARN_UNUSED;
/* Rank 0, before the commit: the tensors that all ranks have written, by their receipts [world]. There is no
 * state and no manifest yet. Owns. */
enum status checkpoint_open_written(struct checkpoint **out, const struct checkpoint_writer *writer,
                                    const struct checkpoint_receipt *receipts, int world) LORAD_WARN_UNUSED;
void checkpoint_close(struct checkpoint *checkpoint); /* NULL ok */
struct checkpoint_id checkpoint_id_of(const struct checkpoint *checkpoint);
struct json;
/* The trainer's state object. Borrowed. */
const struct json *checkpoint_state(const struct checkpoint *checkpoint);
struct hash128 checkpoint_manifest_hash(const struct checkpoint *checkpoint);

/* Gathers rows [row, row+rows) x columns [col, col+cols) of a logical tensor from whatever shards hold it
 * into `to` (dense); decompressed bytes are checked against their hash. Where pieces of several ranks
 * overlap, the lowest rank's is taken. LORAD_DATA: absent, not covered, other dtype or shape, damaged. On
 * failure `to` may be partly written. */
enum status checkpoint_read(struct checkpoint *checkpoint, const char *name, const char *dtype,
                            const int64_t shape[2], int64_t row, int64_t rows, int64_t col, int64_t cols,
                            void *to) LORAD_WARN_UNUSED;

/* ---- for people ---- */

struct checkpoint_contents {
    char created_utc[24];
    int world;                        /* ranks that wrote it */
    int64_t raw_bytes, shard_bytes;   /* all tensors, and the shards that hold them */
    int64_t other_bytes, total_bytes; /* the files beside the shards; everything, the manifest too */
    size_t n_files;                   /* shards, others, manifest */
};
void checkpoint_describe(const struct checkpoint *checkpoint, struct checkpoint_contents *out);

/* A logical tensor: all pieces of one name. */
struct checkpoint_tensor {
    const char *name, *dtype; /* borrowed */
    int64_t shape[2];
    int32_t pieces;
    int64_t raw_bytes, packed_bytes; /* of its pieces, copies included */
};
/* The tensors by name, one a call: *at is 0 before the first. false: there are no more. */
bool checkpoint_next_tensor(const struct checkpoint *checkpoint, size_t *at, struct checkpoint_tensor *out);

/* Reads every byte of a committed checkpoint: files against their hashes, indexes, and every piece
 * decompressed. Appends a line for each thing that is wrong and goes on. LORAD_DATA when anything is; what
 * checkpoint_open returns when even its manifest cannot be read. */
enum status checkpoint_examine(struct strbuf *problems, const char *dir) LORAD_WARN_UNUSED;

/* ---- taking out of service ---- */

/* Pins a committed checkpoint, or takes the pin away; durable. `name` as in checkpoint_entry. */
enum status checkpoint_pin(struct fs *fs, const char *output_dir, const char *name,
                           bool pinned) LORAD_WARN_UNUSED;

/* Moves a damaged folder to OUT/quarantine/ (never deletes) and writes `why` (NULL: nothing) beside it, as
 * <name>.why, best effort. `name` as in checkpoint_entry. */
enum status checkpoint_quarantine(struct fs *fs, const char *output_dir, const char *name,
                                  const char *why) LORAD_WARN_UNUSED;

/* What collection leaves. A checkpoint is good when it is committed and not void. */
struct checkpoint_retention {
    int32_t keep;     /* so many good ones, the newest first; <= 0: all of them */
    int64_t steps[2]; /* the good ones of these steps stay too (the best, the last saved); < 0: none */
    /* Whether nobody will ever load it, since a later start went on from before it. NULL: none is void. */
    enum status (*is_void)(bool *out, void *context, struct checkpoint_id id);
    void *context;
    bool alone;            /* no run goes on: what has no manifest is not in progress either */
    bool dry_run;          /* only say what would be done */
    struct strbuf *report; /* a line for each that goes, "<name>\t<why>\n"; NULL: not wanted */
};

/*
 * Removes checkpoints, un-committing first (MANIFEST.json renamed), then through OUT/trash/: good ones beyond
 * retention->keep, void ones, and folders that never committed and are older than the newest good one. Age
 * counts by epoch before step, so what a fenced run wrote late pushes nothing out. These stay in any case:
 * pinned ones, those of retention->steps, the newest good one, and everything when no good one can be read
 * back whole: a newer checkpoint replaces an older one only after its files were read and hashed again.
 * Damaged ones take no place and stay for the next resume to put in quarantine. They count in `keep` as the
 * others do: pinned and named ones take their places first.
 */
enum status checkpoint_collect(struct fs *fs, const char *output_dir,
                               const struct checkpoint_retention *retention) LORAD_WARN_UNUSED;

/* Removes folders that an earlier epoch than `epoch` began and never committed, and what a collection left in
 * OUT/trash. For a save that lacks space: a run that is killed in save after save fills a disk with them, and
 * collection comes behind a commit only. For the owner of `epoch`, which has fenced whoever may still write
 * there. */
enum status checkpoint_clear_unfinished(struct fs *fs, const char *output_dir,
                                        int64_t epoch) LORAD_WARN_UNUSED;

/* What lies about in an output_dir besides checkpoints. */
enum checkpoint_leftover_kind {
    LEFTOVER_TEMPORARY,  /* of a process that died while it wrote */
    LEFTOVER_TRASH,      /* collected, or of a run that was overwritten */
    LEFTOVER_QUARANTINE, /* damaged checkpoints: never removed by lorad */
};
struct checkpoint_leftover {
    enum checkpoint_leftover_kind kind;
    char *path; /* relative to output_dir */
    char *why;  /* a line for people */
    int64_t bytes;
};
/* In order of kind, then of path. Things with names that lorad does not give are left out. Owns: *out. */
enum status checkpoint_leftovers(struct checkpoint_leftover **out, size_t *n,
                                 const char *output_dir) LORAD_WARN_UNUSED;
void checkpoint_leftovers_free(struct checkpoint_leftover *leftovers, size_t n);

#endif
