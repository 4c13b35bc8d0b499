/* What people read of a run in Redis or in files that anybody may have written. */
#include "support/test.h"

#include <string.h>

#include "base/json.h"
#include "launch/log_text.h"
#include "launch/status_text.h"

/* ESC, BEL, DEL and the CSI of UTF-8, as JSON. */
#define EVIL "a\\u001b[2Jb\\u0007\\u007f\\u009b1mc\\nd \u00e9"
static const char shown[] = "a?[2Jb???1mc?d \u00e9";

static struct json *parse(const char *text)
{
    struct json *json;
    assert_ok(js_parse(&json, text, strlen(text), "test"));
    return json;
}

/* Only newlines, and the evil text `times` times in a form that a terminal takes for text. */
static void check(struct strbuf *text, int times)
{
    int n = 0;
    assert_ok(strbuf_status(text));
    for (const char *at = strbuf_text(text); *at; at++) assert_true((unsigned char)*at >= ' ' || *at == '\n');
    assert_null(strstr(strbuf_text(text), "\xc2\x9b"));
    assert_null(strchr(strbuf_text(text), 0x7f));
    for (const char *at = strbuf_text(text); (at = strstr(at, shown)); at++) n++;
    assert_int_equal(n, times);
    strbuf_free(text);
}

static void a_status_moves_no_cursor(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_EMPTY;
    struct json *run =
        parse("{\"run\":\"" EVIL "\",\"phase\":\"" EVIL "\",\"stage\":\"" EVIL "\",\"output_dir\":\"" EVIL
              "\",\"hosts\":\"" EVIL "\",\"device\":\"" EVIL "\",\"since\":\"" EVIL "\",\"straggler\":\"" EVIL
              "\",\"overrides\":[{\"key\":\"" EVIL "\",\"value\":1,\"was\":2,\"step\":3}],"
              "\"redis\":{\"state\":\"" EVIL "\",\"server\":\"" EVIL "\",\"since\":\"" EVIL
              "\",\"reason\":\"" EVIL "\"}}");
    status_text(&text, run, 0);
    js_destroy(run);
    check(&text, 13);
}

static void logs_move_no_cursor(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_EMPTY;
    struct json *event =
        parse("{\"time\":\"" EVIL "\",\"event\":\"" EVIL "\",\"step\":7,\"text\":\"" EVIL "\"}");
    log_line_text(&text, event);
    js_destroy(event);
    assert_null(strchr(strbuf_text(&text), '\n'));
    check(&text, 3);
    struct json *metric = parse("{\"step\":7,\"loss\":1.5,\"stage\":\"" EVIL "\"}");
    log_line_text(&text, metric);
    js_destroy(metric);
    check(&text, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_status_moves_no_cursor),
        cmocka_unit_test(logs_move_no_cursor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
