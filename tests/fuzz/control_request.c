/* A line of the control protocol: as a request, read in full or refused; a request that was read is written
 * and read back the same; and as a reply. */
#include <stdint.h>
#include <string.h>

#include "comm/control_message.h"

static void check_request(const struct coord_command *request)
{
    struct strbuf text = STRBUF_EMPTY;
    struct coord_command again;
    control_request_write(&text, request);
    ASSERT(control_request_read(&again, strbuf_text(&text), text.length) == LORAD_OK);
    ASSERT(strcmp(request->id, again.id) == 0 && strcmp(request->verb, again.verb) == 0);
    ASSERT(strcmp(request->key, again.key) == 0 && strcmp(request->value, again.value) == 0);
    ASSERT(request->at_step == again.at_step);
    strbuf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct coord_command request;
    struct control_reply reply;
    if (control_request_read(&request, (const char *)data, size) == LORAD_OK) check_request(&request);
    if (control_reply_read(&reply, (const char *)data, size) == LORAD_OK) {
        ASSERT(reply.text && strlen(reply.id) < sizeof reply.id);
        control_reply_free(&reply);
    }
    status_clear();
    return 0;
}
