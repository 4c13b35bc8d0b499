/* A list of words, and behind the first 0xFE byte a text: what is found is the word, in the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"
#include "dataloader/word_list.h"

struct search {
    const struct word_list *list;
    const char *text;
    size_t length, end, found;
};

static void check(void *context, int32_t word, size_t offset, size_t length)
{
    struct search *search = context;
    if (word < 0 || word >= word_list_size(search->list)) abort();
    const char *wanted = word_list_word(search->list, word);
    if (length != strlen(wanted) || length == 0 || offset + length > search->length) abort();
    if (offset + length < search->end) abort(); /* in the order in which they end */
    search->end = offset + length;
    search->found++;
    if (strncasecmp(wanted, search->text + offset, length) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const uint8_t *split = length > 0 ? memchr(bytes, 0xFE, length) : NULL;
    size_t n = split ? (size_t)(split - bytes) : length;
    const char *text = split ? (const char *)split + 1 : "";
    struct word_list *list;
    if (word_list_parse(&list, (const char *)bytes, n, "fuzz") != LORAD_OK) return 0;
    struct search search = {list, text, split ? length - n - 1 : 0, 0, 0};
    word_list_find(list, search.text, search.length, check, &search);
    for (int32_t word = 0; word < word_list_size(list); word++) { /* alone, each word is found */
        const char *whole = word_list_word(list, word);
        struct search again = {list, whole, strlen(whole), 0, 0};
        if (!utf8_valid(whole, again.length, NULL)) abort();
        word_list_find(list, whole, again.length, check, &again);
        if (again.found == 0) abort();
        if (word > 1000) break;
    }
    word_list_free(list);
    return 0;
}
