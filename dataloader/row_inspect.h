/*
 * row_inspect.h: what people should know about a row before they train on it: personal data, words of a list,
 * answers that are too short.
 *
 * Personal data is found by pattern, in half- and full-width characters, and never inside a longer string of
 * digits, letters or an amount:
 * - ID: a resident ID number of the PRC (GB 11643-1999): 18 characters, region, a date since 1900, check
 *   digit
 * - mobile: a mobile number of mainland China: 11 digits of an assigned range, also in groups of 3, 4 and 4
 *   and with +86 or 0086
 * - landline: area code and 7 or 8 digits, with a sign between them (0755-82960167, (010) 65185898) or after
 *   a word such as 电话
 * - card: a bank card number with a right Luhn digit: 16 to 19 digits that start with 62 (UnionPay); for the
 *   other schemes (Visa, Mastercard, JCB, American Express) only after a word such as 卡号 or "card", or
 *   written in groups with hyphens
 * - e-mail: local@domain.tld
 *
 * Thread: options and word list are read only and shared; everything else belongs to one thread.
 */
#ifndef LORAD_DATALOADER_ROW_INSPECT_H
#define LORAD_DATALOADER_ROW_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "dataloader/chat_template.h"
#include "dataloader/word_list.h"

enum pii_policy { PII_OFF, PII_WARN, PII_MASK, PII_DROP };

enum finding_kind {
    FINDING_ID,
    FINDING_MOBILE,
    FINDING_LANDLINE,
    FINDING_CARD,
    FINDING_EMAIL,
    FINDING_PII, /* as many kinds of personal data */
    FINDING_SHORT_ANSWER = FINDING_PII,
    FINDING_WORD,
    FINDINGS
};
const char *finding_name(enum finding_kind kind);        /* "resident ID number", for people */
const char *finding_names(enum finding_kind kind);       /* the plural */
const char *finding_key(enum finding_kind kind);         /* "id_number", for JSON */
const char *finding_placeholder(enum finding_kind kind); /* "[ID]"; NULL for what is not personal data */

/* One kind (one word) in one row. */
struct finding {
    enum finding_kind kind;
    int32_t word;    /* FINDING_WORD: its number in the list; else 0 */
    int32_t count;   /* how often in the row */
    int32_t message; /* where the first one stands: 0-based message, byte of its content as it was read */
    size_t offset, length;
};

/* Findings of any number of rows, one row after another. Starts zeroed. */
struct finding_list {
    struct finding *at;
    size_t n, capacity;
};
void finding_list_free(struct finding_list *list);

struct inspect_options {
    enum pii_policy pii;
    int32_t
        min_answer_chars; /* answers with fewer characters are reported; 0: none. They are never dropped. */
    const struct word_list *words; /* NULL: none. Borrowed. */
};

enum inspect_verdict {
    INSPECT_KEEP,
    INSPECT_MASKED, /* messages now point to text with placeholders, borrowed from the inspection */
    INSPECT_DROP,   /* personal data, and pii is drop */
};

/* What one thread needs, used again and again. Starts zeroed. */
struct message_change {
    size_t message, start, length; /* of masked */
};
struct inspection {
    struct strbuf masked; /* the changed messages of the last row */
    struct message_change *change;
    size_t n_changes, change_capacity;
    struct word_counter *counter;
};
void inspection_free(struct inspection *inspection);

/* Appends the row's findings to `list` (nothing when there are none) and says what becomes of the row.
 * Contents must be valid UTF-8. With PII_MASK each piece of personal data becomes its placeholder. An answer
 * counts white space around it for nothing; answers that are not learnt (weight 0) are not measured.
 * LORAD_NOMEM only. */
enum status row_inspect(const struct inspect_options *options, struct inspection *inspection,
                        struct message *messages, size_t n, struct finding_list *list,
                        enum inspect_verdict *verdict) LORAD_WARN_UNUSED;

/* "2 mobile phone numbers, 1 e-mail address": the findings of one row in words, appended. The texts
 * themselves are not repeated, except listed words. */
void finding_text(struct strbuf *out, const struct finding *findings, size_t n,
                  const struct word_list *words);

#endif
