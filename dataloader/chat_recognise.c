/*
 * chat_recognise.c: from the text of a model's chat template, or a name, to a way of writing conversations.
 *
 * Invariants
 *  1. A model's template is never run: its text, without what Jinja ignores, is looked up among the known
 *     ones. What is not known is refused, since a near miss would train the wrong text.
 *  2. A default system message does not decide what a template is: it is cut out before hashing and kept.
 *  3. Two texts with one canonical form render alike, whatever the messages.
 */
#include "dataloader/chat_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

/* ---- the dialects ---- */

#define ALPACA_TURNS                                                                                         \
    .separator = "\n\n", .question = "### Instruction:\n", .answer = "\n\n### Response:\n", .between = "\n\n"
#define MISTRAL_SPACES(b, o, c, a)                                                                           \
    .family = FAMILY_MISTRAL, .before = b, .opened = o, .closing = c, .answering = a

enum dialect {
    CHATML,
    QWEN,
    QWEN3,
    QWEN3_THINKING,
    QWEN3_NONTHINKING,
    LLAMA2,
    LLAMA3,
    LLAMA31,
    MISTRAL,
    MISTRAL_V1,
    MISTRAL_V3,
    MISTRAL_NEMO,
    MISTRAL_V7,
    ALPACA,
    CORNUCOPIA,
    PLAIN,
    NAMED, /* those above have a name that people may write; those below come with a model only */
    CHATML_BOS = NAMED,
    LLAMA31_UNTRIMMED,
    MISTRAL_SPACED,
    MISTRAL_V3_FIRST,
    MISTRAL_V3_UNTRIMMED,
    MISTRAL_V3_COMMON,
    MISTRAL_NEMO_COMMON,
    MISTRAL_V1_COMMON,
    MISTRAL_V7_SPACED,
    ALPACA_BOS,
    DIALECTS
};

static const struct chat_dialect dialects[DIALECTS] = {
    [CHATML] = {.name = "chatml", .family = FAMILY_CHATML},
    [QWEN] = {.name = "qwen",
              .family = FAMILY_CHATML,
              .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    [QWEN3] = {.name = "qwen3", .family = FAMILY_CHATML, .thinks = true},
    [QWEN3_THINKING] = {.name = "qwen3_thinking",
                        .family = FAMILY_CHATML,
                        .thinks = true,
                        .tail = "<think>\n"},
    [QWEN3_NONTHINKING] = {.name = "qwen3_nonthinking",
                           .family = FAMILY_CHATML,
                           .thinks = true,
                           .tail = "<think>\n\n</think>\n\n"},
    [LLAMA2] = {.name = "llama2", .family = FAMILY_LLAMA2},
    [LLAMA3] = {.name = "llama3", .family = FAMILY_LLAMA3},
    [LLAMA31] = {.name = "llama3.1", .family = FAMILY_LLAMA3, .dated = true},
    [MISTRAL] = {.name = "mistral", MISTRAL_SPACES("", " ", " ", "")},
    [MISTRAL_V1] = {.name = "mistral_v1", MISTRAL_SPACES(" ", " ", " ", " "), .system = SYSTEM_FIRST},
    [MISTRAL_V3] = {.name = "mistral_v3",
                    MISTRAL_SPACES("", " ", "", " "),
                    .system = SYSTEM_LAST,
                    .trims = true},
    [MISTRAL_NEMO] = {.name = "mistral_nemo", MISTRAL_SPACES("", "", "", ""), .system = SYSTEM_LAST},
    [MISTRAL_V7] = {.name = "mistral_v7", MISTRAL_SPACES("", "", "", ""), .system = SYSTEM_MARKED},
    [ALPACA] = {.name = "alpaca",
                .family = FAMILY_ALPACA,
                ALPACA_TURNS,
                .skips_empty = true,
                .default_system = "Below is an instruction that describes a task. Write a response that "
                                  "appropriately completes the request."},
    [CORNUCOPIA] = {.name = "cornucopia",
                    .family = FAMILY_ALPACA,
                    .default_system = "下面是一个问题，运用金融财经知识来正确回答问题.",
                    .separator = "\n",
                    .question = "### 问题:\n",
                    .answer = "\n### 回答:\n",
                    .between = "\n",
                    .skips_empty = true},
    [PLAIN] = {.name = "plain", .family = FAMILY_PLAIN},
    [CHATML_BOS] = {.name = "chatml", .family = FAMILY_CHATML, .bos = true},
    [LLAMA31_UNTRIMMED] = {.name = "llama3.1", .family = FAMILY_LLAMA3, .dated = true, .untrimmed = true},
    [MISTRAL_SPACED] = {.name = "mistral", MISTRAL_SPACES("", " ", " ", ""), .after = " "},
    [MISTRAL_V3_FIRST] = {.name = "mistral_v3",
                          MISTRAL_SPACES("", " ", "", " "),
                          .system = SYSTEM_FIRST,
                          .trims = true},
    [MISTRAL_V3_UNTRIMMED] = {.name = "mistral_v3", MISTRAL_SPACES("", " ", "", " "), .system = SYSTEM_LAST},
    [MISTRAL_V3_COMMON] = {.name = "mistral_v3",
                           MISTRAL_SPACES("", " ", "", " "),
                           .system = SYSTEM_LAST,
                           .skips_empty = true},
    [MISTRAL_NEMO_COMMON] = {.name = "mistral_nemo",
                             MISTRAL_SPACES("", "", "", ""),
                             .system = SYSTEM_LAST,
                             .skips_empty = true},
    [MISTRAL_V1_COMMON] = {.name = "mistral_v1",
                           MISTRAL_SPACES(" ", " ", " ", " "),
                           .system = SYSTEM_FIRST,
                           .skips_empty = true},
    [MISTRAL_V7_SPACED] = {.name = "mistral_v7", MISTRAL_SPACES("", " ", "", " "), .system = SYSTEM_MARKED},
    [ALPACA_BOS] = {.name = "alpaca", .family = FAMILY_ALPACA, ALPACA_TURNS, .bos = true},
};

/* Canonical texts of model templates by their hash (chat_hash). */
static const struct {
    uint64_t hash;
    enum dialect dialect;
    bool default_system; /* the text has one */
    const char *bos;     /* the text has its BOS written out: only for tokenizers with this one */
} known[] = {
    {0x0d1b5c1417096dd4, CHATML, false, NULL},               /* autotrain-llama3-70b-orpo-v1 */
    {0x1071954899b22eef, CHATML, false, NULL},               /* Unsloth */
    {0x1bbe603774a8aa92, CHATML, false, NULL},               /* an Ollama model */
    {0x3edc5e79fa320c66, CHATML, false, NULL},               /* Qwen3 Instruct-2507 */
    {0x61c0691f12b566b9, CHATML, false, NULL},               /* Mistral-7B-OpenOrca-GPTQ */
    {0x680d1abcb71b610b, CHATML, false, NULL},               /* Qwen3 Coder */
    {0x7e3b57bebd843cd7, CHATML, false, NULL},               /* an Ollama model */
    {0x8ad067cf3dcb474e, CHATML, false, NULL},               /* Master-Yi-9B */
    {0x909a515215d9e64d, CHATML, false, NULL},               /* Unsloth */
    {0x9176ceaf5a46e5ef, CHATML, false, NULL},               /* TRL: qwen3_instruct_2507_training */
    {0x9dec27cc7c7a0e16, CHATML, false, NULL},               /* Axolotl */
    {0xb9f464b71ea04208, CHATML, false, NULL},               /* the minimal one */
    {0xd1e51c24fb3ecbf5, CHATML, false, NULL},               /* TRL: qwen3_vl_training */
    {0xea3058426c3a0c85, CHATML, false, NULL},               /* dolphin-2.6-mistral-7b-dpo-laser */
    {0xf33e8bcd4a24ea28, CHATML, false, NULL},               /* Qwen3 VL */
    {0x16b84830c03abcea, QWEN, true, NULL},                  /* a model that huggingface.js tests */
    {0x282831385d749859, QWEN, true, NULL},                  /* an Ollama model */
    {0x4059c5c6f6366035, QWEN, true, NULL},                  /* SauerkrautLM-Qwen-32b */
    {0x5b2770a151f6a583, QWEN, true, NULL},                  /* TRL: qwen2_5_vl_training */
    {0x92cdeb71063b2d0e, QWEN, true, NULL},                  /* Qwen1.5, Qwen2 */
    {0xa545ecd3339b149a, QWEN, true, NULL},                  /* TRL: qwen2_5_training */
    {0xc7b581d1d93fde6a, QWEN, true, NULL},                  /* zephyr-speakleash-010-pl-3072-32-16-0.01 */
    {0xcd3e56989c1ee46a, QWEN, true, NULL},                  /* Unsloth */
    {0xd950efdc8fdf6843, QWEN, true, NULL},                  /* Qwen2.5 */
    {0xdfb1aae65ebf65f8, QWEN, true, NULL},                  /* an Ollama model */
    {0x2b936eef538787cb, CHATML_BOS, false, NULL},           /* InternLM2 Chat */
    {0xa77b18e3861011b7, CHATML_BOS, false, NULL},           /* dolphin-2.8-mistral-7b-v02 */
    {0xfc56776875ab647f, CHATML_BOS, false, NULL},           /* Axolotl */
    {0xfed94441cce9b15a, CHATML_BOS, true, NULL},            /* an Ollama model */
    {0x5b2716a2a3839ae8, QWEN3, false, NULL},                /* Qwen3, first edition */
    {0x86bc2053bceadff1, QWEN3, false, NULL},                /* Unsloth */
    {0xf8281276407a2bde, QWEN3, false, NULL},                /* Qwen3 */
    {0xa53d827451eb43f0, QWEN3_THINKING, false, NULL},       /* Qwen3 Thinking-2507 */
    {0x055a15f3d51ccd74, QWEN3_NONTHINKING, false, NULL},    /* Qwen3, without thinking */
    {0x5980236b6461f8e8, LLAMA2, false, NULL},               /* Unsloth */
    {0x9f6b0b9ec1cb1d18, LLAMA2, true, NULL},                /* a model that huggingface.js tests */
    {0xb3110ddced512a4e, LLAMA2, false, NULL},               /* Code Llama Instruct */
    {0xc95aad7358a88bc9, LLAMA2, false, NULL},               /* Unsloth */
    {0xcfa62c88cf116885, LLAMA2, false, NULL},               /* Llama 2 Chat */
    {0x27751ab71444bc6f, LLAMA3, false, NULL},               /* Axolotl */
    {0x2c02bf80edf30bbb, LLAMA3, false, NULL},               /* Llama 3 Instruct */
    {0x2c84e4da642fa9f5, LLAMA3, false, NULL},               /* Unsloth */
    {0x645b9e4fc6aefb6e, LLAMA3, true, "<|begin_of_text|>"}, /* Llama3-8B-Chinese-Chat */
    {0x6e833a53c6122a6d, LLAMA3, false, NULL},               /* TRL: llama3_training */
    {0xb80fb2d393fb9103, LLAMA3, false, NULL},               /* llama-3-Korean-Bllossom-8B */
    {0xe3ed96ae4623a7f9, LLAMA3, false, NULL},               /* Llama 3 Instruct, first edition */
    {0x590cb5d4b61b072b, LLAMA31, false, NULL},              /* Llama 3.1 and 3.3 Instruct */
    {0xc12be08a50066910, LLAMA31, false, NULL},              /* Llama 3.2 Instruct */
    {0x0303f4e4f795ecf4, LLAMA31_UNTRIMMED, false, NULL},    /* an Ollama model */
    {0x1f646f3b5bec4d07, LLAMA31_UNTRIMMED, false, NULL},    /* a model that huggingface.js tests */
    {0xb1d4d92293d5358f, LLAMA31_UNTRIMMED, false, NULL},    /* Axolotl, Llama 3.2 Vision */
    {0xbba2967e02cbfe70, MISTRAL, false, NULL},              /* Mistral 7B Instruct v0.2, first edition */
    {0xd7de2a8e9cb5af2a, MISTRAL, false, NULL},              /* Smaug-Mixtral-v0.1 */
    {0x8e03cb8ca299f8c7, MISTRAL_SPACED, false, NULL},       /* Mistral 7B Instruct v0.1, first edition */
    {0x248f4923ccca3184, MISTRAL_V1, false, NULL},           /* Axolotl */
    {0xc2fd7adf5a6ade3d, MISTRAL_V1, false, NULL}, /* Mistral 7B Instruct v0.1, Mixtral 8x7B Instruct */
    {0x115937f663601e97, MISTRAL_V1_COMMON, false, NULL},    /* mistral-common */
    {0x2c7d94ec21532fd5, MISTRAL_V1_COMMON, false, NULL},    /* mistral-common */
    {0x3fa9b926c01dc18a, MISTRAL_V1_COMMON, false, "<s>"},   /* mistral-common */
    {0x79b9867f58d4eff6, MISTRAL_V3, false, NULL},           /* Axolotl */
    {0x87a95c03b563d1c2, MISTRAL_V3, false, NULL},           /* Mistral 7B Instruct v0.3 */
    {0x14cc3cc7fd390e1f, MISTRAL_V3_FIRST, false, NULL},     /* Mistral 7B Instruct v0.3, last edition */
    {0xe265befad7f7fd68, MISTRAL_V3_UNTRIMMED, false, NULL}, /* an Ollama model */
    {0x1bd8347645ed85ff, MISTRAL_V3_COMMON, false, "<s>"},   /* mistral-common */
    {0x2bbd7481b91660d8, MISTRAL_V3_COMMON, false, NULL},    /* mistral-common */
    {0x3fed6b15b47d755c, MISTRAL_V3_COMMON, false, NULL},    /* mistral-common */
    {0x5bbd3d90adbcf2e3, MISTRAL_V3_COMMON, false, NULL},    /* mistral-common */
    {0xbdfe3c3a0afac57f, MISTRAL_V3_COMMON, false, "<s>"},   /* mistral-common */
    {0xdb7a2fed642af592, MISTRAL_V3_COMMON, false, NULL},    /* mistral-common */
    {0xf9e44a46b9a3c5e4, MISTRAL_V3_COMMON, false, NULL},    /* mistral-common */
    {0x01b765dc03c1f771, MISTRAL_NEMO, false, NULL},         /* Axolotl */
    {0x15fc8fa061871999, MISTRAL_NEMO, false, NULL},         /* a model that huggingface.js tests */
    {0x7b883dd495e1bd2f, MISTRAL_NEMO, false, NULL},         /* Mistral Nemo Instruct */
    {0xd18b9b9a2d87744b, MISTRAL_NEMO, false, NULL},         /* Axolotl */
    {0x17c597bfeb76b1fb, MISTRAL_NEMO_COMMON, false, NULL},  /* mistral-common */
    {0x4cd5bc6ba0292fb2, MISTRAL_NEMO_COMMON, false, NULL},  /* mistral-common */
    {0x50aa3b0bbef00280, MISTRAL_NEMO_COMMON, false, NULL},  /* mistral-common */
    {0xa9d207e06478900a, MISTRAL_NEMO_COMMON, false, NULL},  /* mistral-common */
    {0xc5835aeee391fe53, MISTRAL_NEMO_COMMON, false, "<s>"}, /* mistral-common */
    {0x0f3fd21fb7735b90, MISTRAL_V7, false, "<s>"},          /* mistral-common */
    {0x10e0b46738ff0a32, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x152775fbccc7e8f9, MISTRAL_V7, false, NULL},           /* an Ollama model */
    {0x15ceb031fa1a34e6, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x1928370b7479f40d, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x223e76c4f50770d7, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x26465a06eacae2f3, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x298af45a02e73515, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x33d1e0c6745fd506, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x34a14a4fe328394b, MISTRAL_V7, false, NULL},           /* Unsloth */
    {0x57353a63c6ef3f66, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x6e6c6fe66a28f49e, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x70576a270cc2dae1, MISTRAL_V7, false, "<s>"},          /* mistral-common */
    {0x784c3ab2ab7667ea, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x8af99402b1dbb5e7, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0xadbf4b4e6e868440, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0xd246df7b289abfe4, MISTRAL_V7, false, "<s>"},          /* mistral-common */
    {0xd325c34a6a633876, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0xe128089e06dfb712, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0xee6a2f0b53e488f7, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0xfaa2e05115027f9b, MISTRAL_V7, false, NULL},           /* mistral-common */
    {0x1cf965f5b081904e, MISTRAL_V7_SPACED, false, "<s>"},   /* mistral-common */
    {0x323568dfda5e97cc, MISTRAL_V7_SPACED, false, NULL},    /* mistral-common */
    {0x4d1973e5972c7aa5, MISTRAL_V7_SPACED, false, NULL},    /* an Ollama model */
    {0x55fb43e8bb919434, MISTRAL_V7_SPACED, false, NULL},    /* mistral-common */
    {0xae62e5b9f6fe2206, MISTRAL_V7_SPACED, false, NULL},    /* mistral-common */
    {0x8d0ad4ab42713225, ALPACA_BOS, false, NULL},           /* Axolotl */
};

/* ---- the canonical form ---- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Line ends as Jinja sees them, without the last one. */
static void add_lines(struct strbuf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\r' && text[1] == '\n') continue;
        strbuf_putc(out, *text == '\r' ? '\n' : *text);
    }
    if (out->length && out->data[out->length - 1] == '\n') out->data[--out->length] = 0;
}

/* Copies a string of a tag from its opening quote; line feeds become \n. Returns where its closing quote
 * stands, or the end of the text. */
static const char *add_string(struct strbuf *out, const char *at)
{
    char quote = *at;
    strbuf_putc(out, quote);
    for (at++; *at && *at != quote; at++) {
        if (*at == '\n') {
            strbuf_puts(out, "\\n");
            continue;
        }
        strbuf_putc(out, *at);
        if (*at == '\\' && at[1]) strbuf_putc(out, *++at);
    }
    if (*at) strbuf_putc(out, quote);
    return at;
}

/* Copies the tag that starts at `at` without white space outside strings and without its signs. *sign: the
 * one at its end, or 0. Returns what follows it. */
static const char *add_tag(struct strbuf *out, const char *at, char *sign)
{
    char end = at[1] == '{' ? '}' : '%';
    int depth = 0;
    *sign = 0;
    strbuf_add(out, at, 2);
    at += at[2] == '-' || at[2] == '+' ? 3 : 2;
    for (; *at; at++) {
        if ((*at == '-' || *at == '+') && at[1] == end && at[2] == '}' && depth == 0) *sign = *at++;
        if (*at == end && at[1] == '}' && depth == 0) {
            strbuf_add(out, at, 2);
            return at + 2;
        }
        if (is_blank(*at)) continue;
        if (*at == '\'' || *at == '"') {
            at = add_string(out, at);
            if (!*at) break;
            continue;
        }
        if (*at == '{') depth++;
        if (*at == '}' && depth > 0) depth--;
        strbuf_putc(out, *at);
    }
    return at;
}

static const char *skip_comment(const char *at, char *sign)
{
    const char *end = strstr(at + 2, "#}");
    *sign = end && end > at + 2 && (end[-1] == '-' || end[-1] == '+') ? end[-1] : 0;
    return end ? end + 2 : at + strlen(at);
}

/* Takes back the white space of the literal text, from `literal` on, that a tag which begins at `tag`
 * removes. */
static void strip_before(struct strbuf *out, size_t literal, const char *tag, bool line_start)
{
    size_t length = out->length;
    while (length > literal && is_blank(out->data[length - 1]) &&
           (tag[2] == '-' || out->data[length - 1] != '\n'))
        length--;
    bool whole_line = length > literal ? out->data[length - 1] == '\n' : line_start;
    if (tag[2] != '-' && (tag[1] == '{' || tag[2] == '+' || !whole_line)) return;
    out->length = length;
    if (out->data) out->data[length] = 0;
}

/* Appends the template as transformers' Jinja (trim_blocks, lstrip_blocks) takes it in: comments and the
 * white space that tags remove are gone, and so is white space inside tags. */
static void add_canonical(struct strbuf *out, const char *text)
{
    size_t literal = 0;     /* where the literal text since the last tag starts */
    bool line_start = true; /* that text starts a line */
    while (*text) {
        if (text[0] != '{' || (text[1] != '{' && text[1] != '%' && text[1] != '#')) {
            strbuf_putc(out, *text++);
            continue;
        }
        char kind = text[1], sign;
        strip_before(out, literal, text, line_start);
        const char *end = kind == '#' ? skip_comment(text, &sign) : add_tag(out, text, &sign);
        text = end;
        if (sign == '-')
            while (is_blank(*text)) text++;
        else if (kind != '{' && sign != '+' && *text == '\n')
            text++;
        line_start = text > end && text[-1] == '\n';
        literal = out->length;
    }
}

/* ---- the default system message ---- */

static const struct {
    const char *opening, *closing;
} system_marks[] = {
    {"{%else%}{{'<|im_start|>system\\n", "<|im_end|>\\n'}}"},
    {"{{'<|im_start|>system\\n", "<|im_end|>\\n'}}"},
    {"{%setsystem_message='", "'%}"},
};

/* The default system message of a canonical template: what stands between these marks. */
static const char *find_default_system(const char *text, size_t *length)
{
    for (size_t i = 0; i < sizeof system_marks / sizeof system_marks[0]; i++) {
        for (const char *at = text; (at = strstr(at, system_marks[i].opening)) != NULL;) {
            at += strlen(system_marks[i].opening);
            const char *end = strstr(at, system_marks[i].closing);
            if (!end || end == at) continue;
            *length = (size_t)(end - at);
            if (!memchr(at, '\'', *length) && !memchr(at, '\\', *length)) return at;
        }
    }
    return NULL;
}

enum status chat_hash(uint64_t *hash, char **system, const char *template)
{
    struct strbuf lines = STRBUF_EMPTY, canonical = STRBUF_EMPTY, rest = STRBUF_EMPTY;
    add_lines(&lines, template);
    add_canonical(&canonical, strbuf_text(&lines));
    enum status status = strbuf_status(&lines);
    if (status == LORAD_OK) status = strbuf_status(&canonical);
    const char *text = strbuf_text(&canonical);
    size_t length = 0;
    const char *found = find_default_system(text, &length);
    char *message = found ? memory_string_n(found, length) : NULL;
    if (found && !message) status = LORAD_NOMEM;
    for (const char *next; message && (next = strstr(text, message)); text = next + length)
        strbuf_add(&rest, text, (size_t)(next - text));
    strbuf_puts(&rest, text);
    if (status == LORAD_OK) status = strbuf_status(&rest);
    if (status == LORAD_OK) {
        *hash = hash64(strbuf_text(&rest), rest.length);
        *system = message;
    } else {
        free(message);
    }
    strbuf_free(&lines);
    strbuf_free(&canonical);
    strbuf_free(&rest);
    return status;
}

/* ---- looking up ---- */

static const char *names(char *out, size_t size)
{
    size_t length = 0;
    for (int i = 0; i < NAMED && length < size; i++)
        length += (size_t)snprintf(out + length, size - length, "%s%s", i ? ", " : "", dialects[i].name);
    return out;
}

/* Whether the tokenizer's BOS reads so. */
static bool has_bos(const struct tokenizer *tokenizer, const char *expected)
{
    size_t length = 0;
    int32_t bos = tokenizer_bos(tokenizer);
    const char *text = bos < 0 ? NULL : tokenizer_text(tokenizer, bos, &length);
    return text && length == strlen(expected) && memcmp(text, expected, length) == 0;
}

enum status chat_recognise(const struct chat_dialect **dialect, char **system,
                           const struct tokenizer *tokenizer)
{
    uint64_t hash;
    char *found = NULL, list[400];
    TRY(chat_hash(&hash, &found, tokenizer_chat_template(tokenizer)));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].hash != hash || known[i].default_system != (found != NULL)) continue;
        if (known[i].bos && !has_bos(tokenizer, known[i].bos)) continue;
        *dialect = &dialects[known[i].dialect];
        *system = found;
        return LORAD_OK;
    }
    free(found);
    return FAIL(
        LORAD_CONFIG,
        "the model's chat template is none that lorad knows (its hash: %016llx); set template: to the "
        "format it writes (one of %s)",
        (unsigned long long)hash, names(list, sizeof list));
}

enum status chat_dialect_find(const struct chat_dialect **dialect, const char *name)
{
    static const char *const aliases[][2] = {{"llama3.2", "llama3.1"}, {"llama3.3", "llama3.1"}};
    char list[400];
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
        if (strcmp(aliases[i][0], name) == 0) name = aliases[i][1];
    for (int i = 0; i < NAMED; i++) {
        if (strcmp(dialects[i].name, name) != 0) continue;
        *dialect = &dialects[i];
        return LORAD_OK;
    }
    return FAIL(LORAD_CONFIG, "template: \"%s\" is not known (known: auto, %s)", name,
                names(list, sizeof list));
}
