/*
 * near_duplicates.c: signatures -> groups of rows that repeat each other.
 *
 * Rows are sorted by the text hash and then by one band after another, in one array of 16 bytes a row that is
 * used again and again; rows with equal keys then stand together. Groups are a forest over row numbers.
 *
 * Invariants:
 * (1) parent[i] <= i, so a root is the smallest row of its group, whatever the order of the links.
 * (2) an exact copy is linked to the first of its kind before any band is looked at, and is in no band: bands
 *     hold rows with different texts only.
 */
#include "dataloader/near_duplicates.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { REPRESENTATIVES = 8, OVERLAP_LOOKS = 16, SMALL_SORT = 48, KEY_BYTES = 8, SORT_BYTES = KEY_BYTES + 4 };
static const double similar = 0.8;

struct entry {
    uint64_t key;
    uint32_t row;
    uint32_t same; /* of a lookup: entries from here on with this key, set for the first of them */
};

/* ---- sorting by key and row, in place, a byte at a time from the top ---- */

static inline uint32_t entry_byte(const struct entry *entry, int depth)
{
    return depth < KEY_BYTES ? (uint32_t)(entry->key >> (56 - 8 * depth)) & 0xFF
                             : (entry->row >> (8 * (SORT_BYTES - 1 - depth))) & 0xFF;
}

static inline bool entry_less(const struct entry *a, const struct entry *b)
{
    return a->key != b->key ? a->key < b->key : a->row < b->row;
}

static void sort_small(struct entry *entry, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct entry moved = entry[i];
        size_t k = i;
        for (; k > 0 && entry_less(&moved, &entry[k - 1]); k--) entry[k] = entry[k - 1];
        entry[k] = moved;
    }
}

/* "American flag": every entry is swapped into its bucket. At most SORT_BYTES deep. */
static void sort_entries(struct entry *entry, size_t n, int depth)
{
    size_t end[256] = {0}, next[256], start = 0;
    if (n <= SMALL_SORT) {
        sort_small(entry, n);
        return;
    }
    if (depth == SORT_BYTES) return;
    for (size_t i = 0; i < n; i++) end[entry_byte(&entry[i], depth)]++;
    for (int b = 0; b < 256; b++) {
        next[b] = start;
        start += end[b];
        end[b] = start;
    }
    for (uint32_t b = 0; b < 256; b++)
        while (next[b] < end[b]) {
            struct entry moved = entry[next[b]];
            for (uint32_t to; (to = entry_byte(&moved, depth)) != b;) {
                struct entry other = entry[next[to]];
                entry[next[to]++] = moved;
                moved = other;
            }
            entry[next[b]++] = moved;
        }
    for (int b = 0; b < 256; b++) {
        size_t first = b > 0 ? end[b - 1] : 0;
        if (end[b] - first > 1) sort_entries(entry + first, end[b] - first, depth + 1);
    }
}

/* Entries from `from` on that share its key. */
static size_t same_key(const struct entry *entry, size_t n, size_t from)
{
    size_t end = from + 1;
    while (end < n && entry[end].key == entry[from].key) end++;
    return end - from;
}

static bool same_text(const struct row_signature *a, const struct row_signature *b)
{
    return a->text_hash == b->text_hash && memcmp(a->band, b->band, sizeof a->band) == 0;
}

/* ---- groups ---- */

enum { IS_COPY = 1, HAS_MEMBERS = 2 };

struct grouping {
    const struct row_signature *signature;
    uint32_t n;
    struct entry *entry;
    uint32_t *parent;
    uint8_t *mark;
    struct duplicates *out;
};

static uint32_t find_root(uint32_t *parent, uint32_t row)
{
    while (parent[row] != row) row = parent[row] = parent[parent[row]];
    return row;
}

static void link_rows(uint32_t *parent, uint32_t a, uint32_t b)
{
    a = find_root(parent, a);
    b = find_root(parent, b);
    if (a < b)
        parent[b] = a;
    else
        parent[a] = b;
}

/* Keeps the pairs with the smallest rows, by row. */
static void keep_pair(struct duplicate_pair *pairs, int32_t *n, struct duplicate_pair pair)
{
    int32_t at = *n;
    if (at == DUPLICATE_PAIRS && pair.row >= pairs[at - 1].row) return;
    if (at == DUPLICATE_PAIRS)
        at--;
    else
        (*n)++;
    for (; at > 0 && pairs[at - 1].row > pair.row; at--) pairs[at] = pairs[at - 1];
    pairs[at] = pair;
}

static void find_exact(struct grouping *g)
{
    size_t n = 0;
    for (uint32_t row = 0; row < g->n; row++) {
        g->parent[row] = row;
        if (g->signature[row].text_hash != 0)
            g->entry[n++] = (struct entry){g->signature[row].text_hash, row, 0};
    }
    g->out->rows = (int64_t)n;
    sort_entries(g->entry, n, 0);
    for (size_t i = 0, size; i < n; i += size) {
        size = same_key(g->entry, n, i);
        uint32_t first = g->entry[i].row;
        bool group = false;
        for (size_t k = 1; k < size; k++) {
            uint32_t row = g->entry[i + k].row;
            if (!same_text(&g->signature[first], &g->signature[row])) continue;
            g->parent[row] = first;
            g->mark[row] |= IS_COPY;
            group = true;
            g->out->exact_rows++;
            keep_pair(g->out->exact, &g->out->n_exact, (struct duplicate_pair){row, first, 1});
        }
        g->out->exact_groups += group;
    }
}

/* Rows with the same band: each against the few that stand for the others. */
static void link_band(struct grouping *g, const struct entry *entry, size_t n)
{
    uint32_t representative[REPRESENTATIVES];
    int32_t known = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t row = entry[i].row;
        bool linked = false;
        for (int32_t r = 0; r < known && !linked; r++) {
            uint32_t other = representative[r];
            linked = find_root(g->parent, row) == find_root(g->parent, other);
            if (linked || row_signature_similarity(&g->signature[row], &g->signature[other]) < similar)
                continue;
            link_rows(g->parent, row, other);
            linked = true;
        }
        if (!linked && known < REPRESENTATIVES) representative[known++] = row;
    }
}

static void find_near(struct grouping *g)
{
    for (int band = 0; band < SIGNATURE_BANDS; band++) {
        size_t n = 0;
        for (uint32_t row = 0; row < g->n; row++)
            if (g->signature[row].text_hash != 0 && !(g->mark[row] & IS_COPY))
                g->entry[n++] = (struct entry){g->signature[row].band[band], row, 0};
        sort_entries(g->entry, n, 0);
        for (size_t i = 0, size; i < n; i += size) {
            size = same_key(g->entry, n, i);
            if (size > 1) link_band(g, g->entry + i, size);
        }
    }
}

/* Counts, and for the pairs that are shown the most similar earlier row of the group. */
static void report_near(struct grouping *g)
{
    struct duplicates *out = g->out;
    for (uint32_t row = 0; row < g->n; row++) {
        if (g->mark[row] & IS_COPY) continue;
        uint32_t root = find_root(g->parent, row);
        if (root == row) continue;
        out->near_rows++;
        out->near_groups += !(g->mark[root] & HAS_MEMBERS);
        g->mark[root] |= HAS_MEMBERS;
        if (out->n_near < DUPLICATE_PAIRS) out->near[out->n_near++] = (struct duplicate_pair){row, root, 0};
    }
    for (int32_t i = 0; i < out->n_near; i++) {
        struct duplicate_pair *pair = &out->near[i];
        uint32_t root = (uint32_t)pair->of_row;
        for (uint32_t other = root; other < pair->row; other++) {
            if ((g->mark[other] & IS_COPY) || find_root(g->parent, other) != root) continue;
            double s = row_signature_similarity(&g->signature[pair->row], &g->signature[other]);
            if (s <= pair->similarity) continue;
            pair->of_row = other;
            pair->similarity = s;
        }
    }
}

enum status duplicates_find(struct duplicates *out, const struct row_signature *signatures, int64_t n)
{
    struct duplicates *made = memory_new(1, sizeof *made);
    if (!made) return LORAD_NOMEM;
    if (n < 0 || n >= UINT32_MAX) {
        free(made);
        return FAIL(
            LORAD_DATA,
            "duplicates are looked for in at most %lu rows, here are %lld: set near_duplicates: false",
            (unsigned long)UINT32_MAX, (long long)n);
    }
    struct grouping g = {.signature = signatures, .n = (uint32_t)n, .out = made};
    g.entry = malloc(((size_t)n + 1) * sizeof *g.entry);
    g.parent = malloc(((size_t)n + 1) * sizeof *g.parent);
    g.mark = calloc((size_t)n + 1, 1);
    enum status status = LORAD_OK;
    if (g.entry && g.parent && g.mark) {
        find_exact(&g);
        find_near(&g);
        report_near(&g);
        *out = *made;
    } else {
        status =
            FAIL(LORAD_NOMEM, "no memory to look for duplicates among %lld rows: set near_duplicates: false",
                 (long long)n);
    }
    free(g.entry);
    free(g.parent);
    free(g.mark);
    free(made);
    return status;
}

/* ---- overlap ---- */

struct lookup {
    struct entry *entry; /* of the second set, sorted */
    size_t n;
    uint64_t *filter; /* a bit for each key that may be there */
    uint32_t filter_shift;
};

struct best {
    int64_t row; /* of the first set; -1: none */
    float similarity;
    bool exact;
};

static inline uint64_t filter_bit(const struct lookup *lookup, uint64_t key)
{
    return (key * 0x9E3779B97F4A7C15u) >> lookup->filter_shift;
}

static enum status lookup_create(struct lookup *lookup, size_t n)
{
    uint32_t bits = 10;
    while (bits < 40 && ((uint64_t)1 << bits) < (uint64_t)n * 16) bits++;
    lookup->filter_shift = 64 - bits;
    lookup->entry = memory_new(n + 1, sizeof *lookup->entry);
    lookup->filter = memory_new((size_t)1 << (bits - 6), sizeof *lookup->filter);
    return lookup->entry && lookup->filter ? LORAD_OK : LORAD_NOMEM;
}

static uint64_t signature_key(const struct row_signature *signature, int band)
{
    return band < 0 ? signature->text_hash : signature->band[band];
}

/* Band -1 is the text hash. Rows whose match is exact already are left out. */
static void lookup_fill(struct lookup *lookup, const struct row_signature *second, uint32_t n,
                        const struct best *best, int band)
{
    lookup->n = 0;
    memset(lookup->filter, 0, (size_t)1 << (61 - lookup->filter_shift));
    for (uint32_t row = 0; row < n; row++) {
        if (second[row].text_hash == 0 || best[row].exact) continue;
        uint64_t key = signature_key(&second[row], band), bit = filter_bit(lookup, key);
        lookup->entry[lookup->n++] = (struct entry){key, row, 0};
        lookup->filter[bit >> 6] |= (uint64_t)1 << (bit & 63);
    }
    sort_entries(lookup->entry, lookup->n, 0);
    for (size_t i = 0; i < lookup->n; i += lookup->entry[i].same)
        lookup->entry[i].same = (uint32_t)same_key(lookup->entry, lookup->n, i);
}

/* Entries with this key: their number; *at is the first. */
static size_t lookup_find(const struct lookup *lookup, uint64_t key, size_t *at)
{
    uint64_t bit = filter_bit(lookup, key);
    if (!(lookup->filter[bit >> 6] >> (bit & 63) & 1)) return 0;
    size_t low = 0, high = lookup->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lookup->entry[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == lookup->n || lookup->entry[low].key != key) return 0;
    *at = low;
    return lookup->entry[low].same;
}

static void match_exact(const struct lookup *lookup, const struct row_signature *first, int64_t row,
                        const struct row_signature *second, struct best *best)
{
    size_t at = 0, n = lookup_find(lookup, first->text_hash, &at);
    /* All of them are matched by the first row that has their text. */
    for (size_t i = at; i < at + n && !best[lookup->entry[i].row].exact; i++)
        if (same_text(first, &second[lookup->entry[i].row]))
            best[lookup->entry[i].row] = (struct best){row, 1, true};
}

/* A group that many rows share is looked at a part at a time, another part for each row. */
static void match_near(const struct lookup *lookup, const struct row_signature *first, int64_t row, int band,
                       const struct row_signature *second, struct best *best)
{
    size_t at = 0, n = lookup_find(lookup, first->band[band], &at);
    size_t looks = n < OVERLAP_LOOKS ? n : OVERLAP_LOOKS, from = n > looks ? (size_t)row * looks % n : 0;
    for (size_t i = 0; i < looks; i++) {
        uint32_t other = lookup->entry[at + (from + i) % n].row;
        double s = row_signature_similarity(first, &second[other]);
        struct best *b = &best[other];
        if (s < similar || (float)s < b->similarity || ((float)s == b->similarity && row >= b->row)) continue;
        *b = (struct best){row, (float)s, false};
    }
}

static void report_overlap(struct overlap *out, const struct row_signature *second, uint32_t n,
                           const struct best *best)
{
    for (int exact = 1; exact >= 0; exact--)
        for (uint32_t row = 0; row < n; row++) {
            if (second[row].text_hash == 0) continue;
            out->rows += exact;
            if (best[row].row < 0 || best[row].exact != (exact == 1)) continue;
            if (exact)
                out->exact_rows++;
            else
                out->near_rows++;
            if (out->n_pairs < DUPLICATE_PAIRS)
                out->pair[out->n_pairs++] = (struct duplicate_pair){row, best[row].row, best[row].similarity};
        }
}

enum status overlap_find(struct overlap *out, const struct row_signature *first, int64_t n_first,
                         const struct row_signature *second, int64_t n_second)
{
    if (n_second < 0 || n_second >= UINT32_MAX)
        return FAIL(LORAD_DATA, "overlap is looked for among at most %lu rows: set near_duplicates: false",
                    (unsigned long)UINT32_MAX);
    uint32_t n = (uint32_t)n_second;
    struct lookup lookup = {0};
    struct best *best = memory_new((size_t)n + 1, sizeof *best);
    enum status status = best ? lookup_create(&lookup, n) : LORAD_NOMEM;
    if (status == LORAD_OK) {
        for (uint32_t row = 0; row < n; row++) best[row].row = -1;
        for (int band = -1; band < SIGNATURE_BANDS; band++) {
            lookup_fill(&lookup, second, n, best, band);
            for (int64_t row = 0; lookup.n > 0 && row < n_first; row++) {
                if (first[row].text_hash == 0) continue;
                if (band < 0)
                    match_exact(&lookup, &first[row], row, second, best);
                else
                    match_near(&lookup, &first[row], row, band, second, best);
            }
        }
        *out = (struct overlap){0};
        report_overlap(out, second, n, best);
    }
    free(lookup.entry);
    free(lookup.filter);
    free(best);
    return status;
}
