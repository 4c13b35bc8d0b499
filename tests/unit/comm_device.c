/* Device collectives over a library that does what the test says: who may use it, setting up, running ahead.
 */
#include "support/test.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/activity.h"
#include "comm/comm_impl.h"
#include "support/lazy_device.h"

/* ---- the library ---- */

enum { VERSION = 22809, WINDOW = 16 };

static struct {
    enum status make_id, create, check, enqueue;
    _Atomic bool hold; /* create and destroy do not come back before it is cleared */
    _Atomic int made, aborted, destroyed;
    char id[COMM_ID_BYTES];
    int rank, size, gpu;
    struct device *device;
    int ran;
    double seconds;
} library;

static const char bus[] = "0000:18:00.0";

static enum status said(enum status status, const char *what)
{
    return status == LORAD_OK ? LORAD_OK : FAIL(status, "the library: %s", what);
}

static void wait_while_held(void)
{
    while (atomic_load(&library.hold)) clock_sleep_ms(1);
}

static enum status lib_locate(struct comm_place *out)
{
    *out = (struct comm_place){.number = 3, .version = VERSION};
    strcpy(out->bus, bus);
    return LORAD_OK;
}

static void lib_prepare(bool deterministic, char *words, size_t bytes)
{
    snprintf(words, bytes, deterministic ? "deterministic" : "");
}

static enum status lib_make_id(void *id)
{
    memset(id, 'i', COMM_ID_BYTES);
    return said(library.make_id, "no id");
}

static enum status lib_create(void **out, const void *id, int rank, int size, const struct comm_place *place,
                              bool deterministic)
{
    wait_while_held();
    memcpy(library.id, id, COMM_ID_BYTES);
    library.rank = rank;
    library.size = size;
    library.gpu = place->number;
    assert_true(deterministic);
    if (library.create != LORAD_OK) return said(library.create, "no group");
    atomic_fetch_add(&library.made, 1);
    *out = &library;
    return LORAD_OK;
}

static enum status lib_check(void *group)
{
    assert_ptr_equal(group, &library);
    return said(library.check, "a cable is out");
}

static double lib_seconds(void *group)
{
    assert_ptr_equal(group, &library);
    return library.seconds;
}

static void lib_abort(void *group)
{
    assert_ptr_equal(group, &library);
    atomic_fetch_add(&library.aborted, 1);
}

static void lib_destroy(void *group)
{
    assert_ptr_equal(group, &library);
    wait_while_held();
    atomic_fetch_add(&library.destroyed, 1);
}

static void ran(void *argument)
{
    (void)argument;
    library.ran++;
}

static enum status lib_enqueue(void *stream)
{
    assert_ptr_equal(stream, device_native_stream(library.device, STREAM_COMPUTE));
    if (library.enqueue == LORAD_OK) lazy_device_enqueue(library.device, ran, NULL);
    return said(library.enqueue, "not enqueued");
}

static enum status lib_all_reduce(void *group, void *stream, void *buffer, int64_t count, enum dtype dtype,
                                  enum comm_reduction reduction)
{
    (void)group, (void)buffer, (void)count, (void)dtype, (void)reduction;
    return lib_enqueue(stream);
}

static enum status lib_all_gather(void *group, void *stream, const void *in, void *out, size_t bytes)
{
    (void)group, (void)in, (void)out, (void)bytes;
    return lib_enqueue(stream);
}

static enum status lib_reduce_scatter(void *group, void *stream, const void *in, void *out, int64_t count,
                                      enum dtype dtype, enum comm_reduction reduction)
{
    (void)group, (void)in, (void)out, (void)count, (void)dtype, (void)reduction;
    return lib_enqueue(stream);
}

static enum status lib_broadcast(void *group, void *stream, void *buffer, size_t bytes, int root)
{
    (void)group, (void)buffer, (void)bytes, (void)root;
    return lib_enqueue(stream);
}

static struct comm_device_ops ops = {.size = sizeof ops,
                                     .name = "NCCL",
                                     .setup_seconds = 1,
                                     .locate = lib_locate,
                                     .prepare = lib_prepare,
                                     .make_id = lib_make_id,
                                     .create = lib_create,
                                     .check = lib_check,
                                     .seconds = lib_seconds,
                                     .abort = lib_abort,
                                     .destroy = lib_destroy,
                                     .all_reduce = lib_all_reduce,
                                     .all_gather = lib_all_gather,
                                     .reduce_scatter = lib_reduce_scatter,
                                     .broadcast = lib_broadcast};

/* ---- two ranks: this one, and one that says the same but for one word ---- */

static const void *old_word, *new_word;
static size_t word_bytes;

static void other_has(const void *instead_of, const void *word, size_t bytes)
{
    old_word = instead_of;
    new_word = word;
    word_bytes = bytes;
}

static enum status pair_all_gather(void *group, const void *in, void *out, size_t bytes)
{
    (void)group;
    char *other = (char *)out + bytes;
    memcpy(out, in, bytes);
    memcpy(other, in, bytes);
    char *place = word_bytes ? memmem(other, bytes, old_word, word_bytes) : NULL;
    if (place) memcpy(place, new_word, word_bytes);
    return LORAD_OK;
}

static enum status pair_broadcast(void *group, void *buffer, size_t bytes, int root)
{
    (void)group, (void)buffer, (void)bytes;
    assert_int_equal(root, 0);
    return LORAD_OK;
}

static const struct comm_ops pair_ops = {
    .kind = "test", .all_gather = pair_all_gather, .broadcast = pair_broadcast};
static const struct comm_host pair = {.ops = &pair_ops, .rank = 0, .size = 2};

static int set_up(void **state)
{
    (void)state;
    memset(&library, 0, sizeof library);
    library.device = lazy_device_open("lorad_nccl_ops", &ops);
    other_has("0000:18:00.0", "0000:3b:00.0", sizeof bus);
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    device_close(library.device);
    return 0;
}

static struct comm_device *new_group(void)
{
    struct comm_device *group = NULL;
    assert_ok(comm_device_create(&group, &ops, &pair, library.device, true));
    return group;
}

/* ---- who can ---- */

static const char *find(const struct comm_device_ops **out)
{
    static char why[512];
    why[0] = '\0';
    *out = NULL;
    assert_ok(comm_device_find(out, why, sizeof why, &pair, library.device));
    return why;
}

static void every_rank_needs_a_gpu_of_its_own(void **state)
{
    (void)state;
    const struct comm_device_ops *found;
    find(&found);
    assert_ptr_equal(found, &ops);

    other_has(NULL, NULL, 0);
    const char *why = find(&found);
    assert_null(found);
    assert_non_null(strstr(why, "ranks 0 and 1 both use GPU 3 (0000:18:00.0) of host "));
    assert_non_null(strstr(why, "NCCL needs one GPU a rank"));
}

static void all_ranks_need_the_same_library(void **state)
{
    (void)state;
    const struct comm_device_ops *found;
    const int32_t version = VERSION, other = 22700;
    other_has(&version, &other, sizeof version);
    const char *why = find(&found);
    assert_null(found);
    assert_non_null(strstr(why, "has NCCL 22700 and rank 0"));

    ops.size--;
    why = find(&found);
    ops.size++;
    assert_null(found);
    assert_non_null(strstr(why, "another release"));

    device_close(library.device);
    library.device = lazy_device_open("another library", &ops);
    why = find(&found);
    assert_null(found);
    assert_non_null(strstr(why, "rank 0 on host"));
    assert_non_null(strstr(why, "no device that NCCL can use"));
}

/* ---- setting up and ending ---- */

static void a_group_is_made_from_the_id_of_its_rank_0(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    char expected[COMM_ID_BYTES];
    memset(expected, 'i', sizeof expected);
    assert_memory_equal(library.id, expected, sizeof expected);
    assert_int_equal(library.rank, 0);
    assert_int_equal(library.size, 2);
    assert_int_equal(library.gpu, 3);
    comm_device_destroy(group);
    assert_int_equal(library.made, 1);
    assert_int_equal(library.destroyed, 1);
    comm_device_destroy(NULL);
}

static void a_set_up_that_fails_says_why(void **state)
{
    (void)state;
    struct comm_device *group = NULL;
    library.make_id = LORAD_DEVICE;
    assert_fails(comm_device_create(&group, &ops, &pair, library.device, true), LORAD_DEVICE,
                 "the library: no id");
    library.make_id = LORAD_OK;
    library.create = LORAD_CONFIG;
    assert_fails(comm_device_create(&group, &ops, &pair, library.device, true), LORAD_CONFIG,
                 "the library: no group");
    assert_null(group);
}

static void a_set_up_that_takes_too_long_ends(void **state)
{
    (void)state;
    struct comm_device *group = NULL;
    atomic_store(&library.hold, true);
    int64_t start_ns = clock_monotonic_ns();
    assert_fails(comm_device_create(&group, &ops, &pair, library.device, true), LORAD_DEVICE,
                 "did not connect the 2 ranks of a group within 1 s");
    assert_true(clock_seconds_since(start_ns) >= 1);
    assert_null(group);
    atomic_store(&library.hold, false); /* its thread ends now, with memory of its own */
    while (atomic_load(&library.made) == 0) clock_sleep_ms(1);
}

static void an_end_that_waits_for_lost_peers_holds_nobody(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    atomic_store(&library.hold, true);
    int64_t start_ns = clock_monotonic_ns();
    comm_device_destroy(group);
    assert_true(clock_seconds_since(start_ns) < 30);
    assert_int_equal(atomic_load(&library.destroyed), 0);
    assert_ok(comm_health()); /* it is not asked any more */
    atomic_store(&library.hold, false);
    while (atomic_load(&library.destroyed) == 0) clock_sleep_ms(1);
}

/* ---- collectives ---- */

static void the_host_runs_ahead_but_not_too_far(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    float value = 0;
    for (int i = 1; i <= 100; i++) {
        if (i % 4 == 0)
            assert_ok(comm_device_all_reduce(group, &value, 1, DTYPE_F32, COMM_SUM));
        else if (i % 4 == 1)
            assert_ok(comm_device_all_gather(group, &value, &value, 4));
        else if (i % 4 == 2)
            assert_ok(comm_device_reduce_scatter(group, &value, &value, 1, DTYPE_F32, COMM_SUM));
        else
            assert_ok(comm_device_broadcast(group, &value, 4, 0));
        int expected = i < WINDOW ? i : WINDOW;
        assert_int_equal(lazy_device_waiting(library.device), expected);
    }
    assert_ok(device_sync(library.device));
    assert_int_equal(library.ran, 100);
    comm_device_destroy(group);
}

static void time_on_the_device_counts_as_waited_once(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    double before = activity_waited_seconds();
    library.seconds = 1.5;
    comm_settle();
    comm_settle();
    assert_true(fabs(activity_waited_seconds() - before - 1.5) < 1e-6);
    library.seconds = 2;
    comm_settle();
    comm_device_destroy(group);
    library.seconds = 3;
    comm_settle(); /* it is not asked any more */
    assert_true(fabs(activity_waited_seconds() - before - 2) < 1e-6);
}

static void a_group_that_broke_is_aborted_and_stays_so(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    float value = 0;
    assert_ok(comm_health());
    assert_ok(comm_device_all_reduce(group, &value, 1, DTYPE_F32, COMM_SUM));
    library.check = LORAD_DEVICE;
    assert_fails(comm_health(), LORAD_DEVICE, "a cable is out");
    assert_int_equal(library.aborted, 0); /* asking changes nothing */
    assert_fails(comm_device_all_reduce(group, &value, 1, DTYPE_F32, COMM_SUM), LORAD_DEVICE,
                 "a cable is out");
    assert_int_equal(library.aborted, 1);
    assert_ok(comm_health());
    assert_fails(comm_device_all_reduce(group, &value, 1, DTYPE_F32, COMM_SUM), LORAD_PEER_LOST,
                 "lost each other");
    comm_device_destroy(group);
    assert_int_equal(library.aborted, 1);
    assert_int_equal(library.destroyed, 0);
}

static void a_collective_that_is_refused_ends_the_group(void **state)
{
    (void)state;
    struct comm_device *group = new_group();
    float value = 0;
    library.enqueue = LORAD_DEVICE;
    assert_fails(comm_device_broadcast(group, &value, 4, 0), LORAD_DEVICE, "not enqueued");
    assert_int_equal(library.aborted, 1);
    comm_device_destroy(group);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_rank_needs_a_gpu_of_its_own),
        TEST(all_ranks_need_the_same_library),
        TEST(a_group_is_made_from_the_id_of_its_rank_0),
        TEST(a_set_up_that_fails_says_why),
        TEST(a_set_up_that_takes_too_long_ends),
        TEST(an_end_that_waits_for_lost_peers_holds_nobody),
        TEST(the_host_runs_ahead_but_not_too_far),
        TEST(time_on_the_device_counts_as_waited_once),
        TEST(a_group_that_broke_is_aborted_and_stays_so),
        TEST(a_collective_that_is_refused_ends_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
