#include "base/utf8.h"

/* Examines one character. Returns its length, or minus the number of bytes of the maximal part that is not
 * one. */
static int examine(uint32_t *character, const unsigned char *s, size_t n)
{
    unsigned char first = s[0];
    if (first < 0x80) {
        *character = first;
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) return -1;
    int length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    unsigned char low = 0x80, high = 0xBF; /* what the second byte may be */
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
    uint32_t value = first & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || s[i] < low || s[i] > high) return -i;
        value = value << 6 | (s[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *character = value;
    return length;
}

size_t utf8_read(uint32_t *character, const char *text, size_t n)
{
    int length = examine(character, (const unsigned char *)text, n);
    return length > 0 ? (size_t)length : 0;
}

bool utf8_valid(const char *text, size_t n, size_t *bad)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t character;
        int length = examine(&character, (const unsigned char *)text + i, n - i);
        if (length < 0) {
            if (bad) *bad = i;
            return false;
        }
        i += (size_t)length;
    }
    return true;
}

void utf8_add_lossy(struct strbuf *out, const char *bytes, size_t n)
{
    size_t kept = 0; /* start of the valid part not yet appended */
    for (size_t i = 0; i < n;) {
        uint32_t character;
        int length = examine(&character, (const unsigned char *)bytes + i, n - i);
        if (length > 0) {
            i += (size_t)length;
            continue;
        }
        strbuf_add(out, bytes + kept, i - kept);
        strbuf_add(out, "\xEF\xBF\xBD", 3);
        i += (size_t)-length;
        kept = i;
    }
    strbuf_add(out, bytes + kept, n - kept);
}
