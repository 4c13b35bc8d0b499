/* The table of the real lorad_cuda.so, where it was built: NCCL makes ids, and all tell their versions, without a GPU. */
#include "support/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm_impl.h"
#include "kernels/device_impl.h"

static void the_library_makes_ids_without_a_gpu(void **state)
{
    (void)state;
    const struct device_backend *backend = NULL;
    assert_ok(device_backend_find(&backend, "cuda"));
    const struct comm_device_ops *ops = device_backend_ops(backend)->extension("lorad_nccl_ops");
    assert_non_null(ops);
    assert_int_equal(ops->size, sizeof *ops);
    assert_string_equal(ops->name, "NCCL");
    int32_t version = 0;
    assert_ok(ops->version(&version));
    assert_in_range(version, 20000, 99999);
    char words[512];
    comm_device_library(words, sizeof words);
    assert_ptr_equal(strstr(words, "NCCL 2."), words);
    assert_ok(device_libraries(words, sizeof words, "cuda"));
    assert_ptr_equal(strstr(words, "cuBLASLt "), words);
    assert_non_null(strstr(words, ", cuDNN 9") ? strstr(words, ", cuDNN 9") : strstr(words, ", no cuDNN: "));
    char one[COMM_ID_BYTES] = "", other[COMM_ID_BYTES] = "";
    assert_ok(ops->make_id(one));
    assert_ok(ops->make_id(other));
    assert_memory_not_equal(one, other, sizeof one);
    assert_null(device_backend_ops(backend)->extension("another library"));
}

int main(void)
{
    char library[4096];
    snprintf(library, sizeof library, "%s", LORAD_PROGRAM);
    strcpy(strrchr(library, '/'), "/lorad_cuda.so");
    if (access(library, R_OK) != 0) {
        printf("skipped: built without CUDA: there is no %s\n", library);
        return 77;
    }
    setenv("LORAD_CUDA_LIBRARY", library, 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_library_makes_ids_without_a_gpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
