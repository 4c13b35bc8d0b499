/* test.h: what every cmocka test program includes. */
#ifndef LORAD_TESTS_SUPPORT_TEST_H
#define LORAD_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

/* Fails with the recorded message when the call is not LORAD_OK. */
#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        enum status assert_status_ = (call);                                                                 \
        if (assert_status_ != LORAD_OK)                                                                      \
            fail_msg("%s: %s: %s", #call, status_name(assert_status_), status_message());                    \
    } while (0)

/* Fails unless the call returns `code` and its message contains `words` (NULL: any). */
#define assert_fails(call, code, words)                                                                      \
    do {                                                                                                     \
        enum status assert_status_ = (call);                                                                 \
        if (assert_status_ != (code))                                                                        \
            fail_msg("%s: expected %s, got %s (%s)", #call, status_name(code), status_name(assert_status_),  \
                     status_message());                                                                      \
        const char *assert_words_ = (words);                                                                 \
        if (assert_words_ && !strstr(status_message(), assert_words_))                                       \
            fail_msg("%s: message lacks \"%s\": %s", #call, assert_words_, status_message());                \
    } while (0)

/* A fresh folder under TMPDIR, removed at exit. Owned by the library. */
const char *test_tmpdir(void);
/* tests/data as it was when this was built, or the folder that LORAD_TEST_DATA names: programs of tests/gpu
 * may run on another machine. Borrowed. */
const char *test_data(void);

#endif
