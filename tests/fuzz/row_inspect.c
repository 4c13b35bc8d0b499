/* A row of two messages (split at the first 0xFE byte): findings lie inside their message, a masked row is
 * valid UTF-8 and its signature is a function of the text alone. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "dataloader/near_duplicates.h"
#include "dataloader/row_inspect.h"

static const char list[] = "内幕\n13\nponzi\n@\n[PHONE]\n";

static void inspect(enum pii_policy pii, const struct word_list *words, struct message messages[2],
                    size_t pieces[FINDINGS])
{
    const struct inspect_options options = {pii, 5, words};
    struct inspection inspection = {0};
    struct finding_list findings = {0};
    enum inspect_verdict verdict;
    const struct message before[2] = {messages[0], messages[1]};
    if (row_inspect(&options, &inspection, messages, 2, &findings, &verdict) != LORAD_OK) abort();
    for (size_t i = 0; i < findings.n; i++) {
        const struct finding *finding = &findings.at[i];
        if (finding->message < 0 || finding->message > 1 || finding->count < 1) abort();
        if (finding->offset + finding->length > before[finding->message].length) abort();
        pieces[finding->kind] += (size_t)finding->count;
    }
    if ((verdict == INSPECT_MASKED) !=
        (messages[0].content != before[0].content || messages[1].content != before[1].content))
        abort();
    for (int i = 0; i < 2; i++)
        if (!utf8_valid(messages[i].content, messages[i].length, NULL)) abort();
    messages[0] = before[0];
    messages[1] = before[1];
    inspection_free(&inspection);
    finding_list_free(&findings);
}

static void check_signature(const struct message messages[2])
{
    struct signature_maker maker = {0};
    struct row_signature first, second;
    if (row_signature_make(&first, &maker, messages, 2) != LORAD_OK) abort();
    if (row_signature_make(&second, &maker, messages, 2) != LORAD_OK) abort();
    if (memcmp(&first, &second, sizeof first) != 0 || first.text_hash == 0) abort();
    if (row_signature_similarity(&first, &second) != 1) abort();
    signature_maker_free(&maker);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const uint8_t *split = length > 0 ? memchr(bytes, 0xFE, length) : NULL;
    size_t n = split ? (size_t)(split - bytes) : length, rest = split ? length - n - 1 : 0;
    struct strbuf user = STRBUF_EMPTY, assistant = STRBUF_EMPTY;
    static struct word_list *words; /* made once */
    size_t warned[FINDINGS] = {0}, masked[FINDINGS] = {0};
    utf8_add_lossy(&user, (const char *)bytes, n);
    utf8_add_lossy(&assistant, (const char *)bytes + length - rest, rest);
    /* Exact allocations, so that a sanitizer sees any read behind the end. */
    char *a = malloc(user.length ? user.length : 1), *b = malloc(assistant.length ? assistant.length : 1);
    if (!words && word_list_parse(&words, list, sizeof list - 1, "list") != LORAD_OK) abort();
    if (!a || !b) abort();
    if (user.length) memcpy(a, user.data, user.length);
    if (assistant.length) memcpy(b, assistant.data, assistant.length);
    struct message messages[2] = {{ROLE_USER, a, user.length, 0}, {ROLE_ASSISTANT, b, assistant.length, 1}};
    inspect(PII_WARN, words, messages, warned);
    inspect(PII_MASK, words, messages, masked);
    if (memcmp(warned, masked, sizeof warned) != 0) abort();
    check_signature(messages);
    free(a);
    free(b);
    strbuf_free(&user);
    strbuf_free(&assistant);
    return 0;
}
