/* What a Redis server answers: replies to one command, read in every way that the outlet reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/control_message.h"
#include "comm/redis_keys.h"

static void read_owner(const struct redis_reply *reply)
{
    struct redis_owner owner, other;
    char words[1024];
    if (redis_owner_read(&owner, reply, 1000)) {
        if (owner.epoch < 0 || !*owner.id || owner.ttl_ms != 1000) abort();
        redis_owner_describe(words, sizeof words, &owner);
        for (const char *at = words; *at; at++)
            if ((unsigned char)*at < 0x20) abort();
    }
    if (redis_lease_read(&other, reply) == LEASE_OTHERS &&
        (other.ttl_ms <= 0 || other.ttl_ms > REDIS_LEASE_MS))
        abort();
}

static void read_requests(const struct redis_reply *reply)
{
    struct redis_request request;
    struct coord_command command;
    for (size_t i = 0; redis_request_read(&request, reply, i); i++) {
        if (!redis_is_position(request.position) || request.sent_ms < 0) abort();
        if (!request.text || control_request_read(&command, request.text, strlen(request.text)) != LORAD_OK)
            continue;
        if (redis_is_request_id(command.id) && strpbrk(command.id, " \r\n{}")) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    redis_batch_add(&batch, "PING");
    if (redis_batch_parse(&batch, (const char *)bytes, length) == LORAD_OK) {
        const struct redis_reply *reply = redis_batch_reply(&batch, 0);
        const char *error = redis_reply_error(reply);
        if (error && redis_reply_text(reply, NULL)) abort();
        read_owner(reply);
        read_requests(reply);
        if (redis_time_ms(reply) < -1) abort();
    }
    redis_batch_free(&batch);
    return 0;
}
