#include "support/test_device.h"

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

struct device *test_device_open(int threads)
{
    struct device_options options = {.kind = test_device_kind(), .threads = threads, .deterministic = true};
    const char *required = getenv("LORAD_REQUIRE_GPU");
    struct device *device = NULL;
    enum status status = device_open(&device, &options);
    if (status == LORAD_CONFIG && !test_device_is_cpu() && !(required && strcmp(required, "1") == 0)) {
        printf("skipped: %s\n", status_message());
        exit(77);
    }
    assert_ok(status);
    return device;
}
