/*
 * Any bytes as a model's chat template, and as messages for every dialect: the template is hashed or refused;
 * what renders encodes to tokens inside the text, in order, with weights.
 *
 * Of the bytes, the first chooses dialect and options; the rest is cut at 0x00 into messages whose roles
 * follow from the first byte of each.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "dataloader/chat_parts.h"
#include "dataloader/tokenizer_parts.h"

enum { MESSAGES = 12 };

/* clang-format off */
#define SPECIAL(id, text, more) "{\"id\":" #id ",\"special\":true," more "\"content\":\"" text "\"},"

static const char tokenizer_text_json[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,"
    "\"ab\":3,\"\\n\":4,\"<0x0A>\":5,\"\\u2581\":6,\"\\u2581a\":7,\"<\":8,\"|\":9,\">\":10,\"s\":11,\"/\":12},"
    "\"merges\":[\"a b\",\"\\u2581 a\"]},"
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[13],"
    "\"tokens\":[\"<s>\"]}}},\"added_tokens\":["
    SPECIAL(13, "<s>", "")
    SPECIAL(14, "</s>", "\"rstrip\":true,")
    SPECIAL(15, "<|im_start|>", "")
    SPECIAL(16, "<|im_end|>", "")
    SPECIAL(17, "<|start_header_id|>", "")
    SPECIAL(18, "<|end_header_id|>", "")
    SPECIAL(19, "<|eot_id|>", "")
    SPECIAL(20, "[INST]", "")
    SPECIAL(21, "[/INST]", "\"lstrip\":true,")
    "{\"id\":22,\"content\":\"<think>\"}]}";
/* clang-format on */

static struct encoded_row row; /* kept from input to input, as preparing does */
static struct token_list prompt;
static struct tokenizer *tokenizer;

static void open_tokenizer(void)
{
    tokenizer = memory_new(1, sizeof *tokenizer);
    if (!tokenizer ||
        tokenizer_read_json(tokenizer, tokenizer_text_json, sizeof tokenizer_text_json - 1, "fuzz") !=
            LORAD_OK ||
        tokenizer_seal(tokenizer, "fuzz") != LORAD_OK)
        abort();
    tokenizer->bos = 13;
    tokenizer->eos = 14;
}

static void recognise(const uint8_t *bytes, size_t length)
{
    char *text = memory_string_n((const char *)bytes, length), *system = NULL;
    uint64_t hash;
    if (!text) abort();
    if (chat_hash(&hash, &system, text) != LORAD_OK) abort();
    free(system);
    tokenizer->chat_template = text;
    struct chat_template *chat = NULL;
    if (chat_template_open(&chat, tokenizer, NULL) == LORAD_OK) chat_template_close(chat);
    tokenizer->chat_template = NULL;
    free(text);
}

static size_t read_messages(struct message *out, const uint8_t *bytes, size_t length)
{
    static const float weights[] = {1, 0, 0.5f, 2};
    size_t n = 0;
    for (size_t at = 0; at < length && n < MESSAGES;) {
        const uint8_t *end = memchr(bytes + at, 0, length - at);
        size_t until = end ? (size_t)(end - bytes) : length;
        uint8_t first = bytes[at];
        size_t skip = until > at; /* the byte that chooses */
        enum message_role turn = n % 2 ? ROLE_ASSISTANT : ROLE_USER;
        enum message_role role = first % 4 == 3 ? turn : (enum message_role)(first % 3);
        out[n++] = (struct message){role, (const char *)bytes + at + skip, until - at - skip,
                                    weights[first / 4 % 4]};
        at = until + 1;
    }
    return n;
}

static void check(size_t length)
{
    int32_t supervised = 0;
    for (size_t i = 0; i < row.tokens.length; i++) {
        if (row.tokens.ids[i] < 0 || row.tokens.ids[i] >= tokenizer_size(tokenizer)) abort();
        if (row.tokens.start[i] > row.tokens.end[i] || row.tokens.end[i] > length) abort();
        if (i && row.tokens.start[i] < row.tokens.start[i - 1]) abort();
        if (!(row.weights[i] >= 0)) abort();
        supervised += row.weights[i] > 0;
    }
    if (supervised != row.n_supervised) abort();
}

static void use(const struct chat_template *chat, const struct message *messages, size_t n, uint8_t choice)
{
    struct strbuf text = STRBUF_EMPTY;
    struct chat_options options = {choice & 1, choice & 2, choice & 4};
    enum status rendered = chat_template_render(chat, messages, n, false, &text);
    enum status encoded = chat_template_encode(chat, messages, n, options, &row);
    if (encoded == LORAD_OK && rendered != LORAD_OK) abort();
    if (encoded == LORAD_OK) check(text.length);
    prompt.length = 0;
    if (chat_template_prompt(chat, messages, n, &prompt) == LORAD_OK && rendered != LORAD_OK) abort();
    for (size_t i = 0; i < n; i++)
        if (chat_template_encode_text(chat, messages[i].content, messages[i].length, &row) == LORAD_OK)
            check(messages[i].length);
    strbuf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char *const names[16] = {
        "chatml",     "qwen",     "qwen3",      "qwen3_thinking", "qwen3_nonthinking", "llama2",
        "llama3",     "llama3.1", "mistral",    "mistral_v1",     "mistral_v3",        "mistral_nemo",
        "mistral_v7", "alpaca",   "cornucopia", "plain"};
    if (!tokenizer) open_tokenizer();
    recognise(bytes, length);
    if (length == 0) return 0;
    struct message messages[MESSAGES];
    size_t n = read_messages(messages, bytes + 1, length - 1);
    struct chat_template *chat = NULL;
    if (chat_template_open(&chat, tokenizer, names[bytes[0] / 8 % 16]) != LORAD_OK) abort();
    use(chat, messages, n, bytes[0]);
    chat_template_close(chat);
    return 0;
}
