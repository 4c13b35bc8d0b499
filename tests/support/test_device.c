#include "support/test_device.h"

#include <unistd.h>

#include "support/test.h"

const char *test_device_kind(void)
{
    const char *kind = getenv("LORAD_TEST_DEVICE");
    return kind && kind[0] ? kind : "cpu";
}

bool test_device_is_cpu(void)
{
    return strcmp(test_device_kind(), "cpu") == 0;
}

bool test_device_is_fast(void)
{
    const char *fast = getenv("LORAD_TEST_FAST");
    return fast && strcmp(fast, "1") == 0;
}

enum status test_device_opened(enum status status)
{
    const char *required = getenv("LORAD_REQUIRE_GPU");
    if (status != LORAD_CONFIG || test_device_is_cpu() || (required && strcmp(required, "1") == 0))
        return status;
    printf("skipped: %s\n", status_message());
    exit(77);
}

void test_device_emulate(void)
{
    if (access(LORAD_EMULATED_CUDA, R_OK) != 0) {
        printf("skipped: there is no %s: it needs a C++ compiler\n", LORAD_EMULATED_CUDA);
        exit(77);
    }
    setenv("LORAD_CUDA_LIBRARY", LORAD_EMULATED_CUDA, 1);
}

void test_device_turn(int run)
{
    static const char *const orders[] = {"forward", "reverse", "shuffled"};
    static int first = -1;
    const char *asked = getenv("LORAD_EMULATOR_ORDER");
    for (int i = 0; first < 0 && i < 3; i++)
        if (strcmp(asked ? asked : orders[0], orders[i]) == 0) first = i;
    assert_true(first >= 0);
    setenv("LORAD_EMULATOR_ORDER", orders[(first + run) % 3], 1);
}

struct device *test_device_open(int threads)
{
    struct device_options options = {
        .kind = test_device_kind(), .threads = threads, .deterministic = !test_device_is_fast()};
    struct device *device = NULL;
    assert_ok(test_device_opened(device_open(&device, &options)));
    return device;
}
