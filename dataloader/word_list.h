/*
 * word_list.h: a list of words, all of them found in one pass over a text (Aho and Corasick, "Efficient
 * string matching", CACM 18(6), 1975), over the characters of UTF-8.
 *
 * The file holds one word a line, UTF-8; white space around a word, empty lines and lines that start with #
 * do not count. ASCII letters match in both cases. A word that begins (ends) with an ASCII letter or digit is
 * found only where no ASCII letter or digit stands before (after) it, so that "ass" is not in "class";
 * Chinese words are found anywhere.
 *
 * Memory: 256 KiB and 32 to 44 bytes a state (a state is a character of the list that is not shared with a
 * word before): about 2 MB for 10,000 Chinese words, 110 MB for the largest list.
 */
#ifndef LORAD_DATALOADER_WORD_LIST_H
#define LORAD_DATALOADER_WORD_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum {
    WORD_LIST_BYTES = 16 << 20,  /* of the file */
    WORD_LIST_STATES = 1 << 21,  /* of the automaton */
    WORD_LIST_LONGEST = 1 << 10, /* bytes of a word */
};

struct word_list;

/* LORAD_NOT_FOUND, LORAD_IO; LORAD_CONFIG, naming file and line, for a bad list or an empty one. Owns: *out.
 */
enum status word_list_read(struct word_list **out, const char *path) LORAD_WARN_UNUSED;
/* The same from memory; `name` stands for the file in messages. */
enum status word_list_parse(struct word_list **out, const char *text, size_t length,
                            const char *name) LORAD_WARN_UNUSED;
void word_list_free(struct word_list *list); /* NULL ok */

/* Words are numbered from 0 in file order; one that came before (in another case) is not counted again. */
int32_t word_list_size(const struct word_list *list);
const char *word_list_word(const struct word_list *list, int32_t word); /* borrowed */
struct hash128 word_list_hash(const struct word_list *list); /* of the words: equal lists, equal hashes */

/* Calls `found` for every occurrence, in the order in which they end; those of different words may overlap.
 * Thread: any number at once. */
typedef void word_found(void *context, int32_t word, size_t offset, size_t length);
void word_list_find(const struct word_list *list, const char *text, size_t length, word_found *found,
                    void *context);

#endif
