/* PEFT adapter folders: round trip, and every feature that is refused by name. */
#include "support/test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "checkpoint/adapter_file.h"

#define NAME(which) "base_model.model.model.layers.0.self_attn.q_proj.lora_" which ".weight"

static float numbers[64];

static const char *folder(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    return path;
}

static const char *folder_with_config(const char *text)
{
    static char path[700];
    (void)mkdir(folder("config"), 0777);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder("config"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    return folder("config");
}

static const char *folder_with_weights(const struct st_item *items, size_t n)
{
    static char path[700];
    (void)mkdir(folder("weights"), 0777);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder("weights"));
    assert_ok(st_write_file(fs_posix(), path, items, n));
    return folder("weights");
}

static void an_adapter_survives_a_round_trip(void **state)
{
    (void)state;
    char *targets[] = {"q_proj", "v_proj"};
    for (int i = 0; i < 64; i++) numbers[i] = (float)i;
    struct adapter_config config = {.r = 4,
                                    .lora_alpha = 12.5,
                                    .lora_dropout = 0.1,
                                    .use_rslora = true,
                                    .target_modules = targets,
                                    .n_target_modules = 2,
                                    .base_model_name_or_path = "./models/\"x\""};
    struct st_item items[] = {{NAME("B"), ST_F32, 2, {8, 4}, numbers},
                              {NAME("A"), ST_F32, 2, {4, 16}, numbers}};
    assert_ok(adapter_write(NULL, fs_posix(), folder("round"), &config, items, 2));
    assert_ok(adapter_write(NULL, fs_posix(), folder("round"), &config, items, 2)); /* replaces */

    struct adapter_config back;
    assert_ok(adapter_config_read(&back, folder("round")));
    assert_int_equal(back.r, 4);
    assert_true(back.lora_alpha == 12.5 && back.lora_dropout == 0.1 && back.use_rslora);
    assert_false(back.target_is_pattern);
    assert_int_equal(back.n_target_modules, 2);
    assert_string_equal(back.target_modules[1], "v_proj");
    assert_string_equal(back.base_model_name_or_path, "./models/\"x\"");
    adapter_config_free(&back);

    struct st_set *set;
    assert_ok(adapter_open(&set, folder("round")));
    assert_int_equal(st_count(set), 2);
    float part[8];
    assert_ok(st_read_part(set, st_find(set, NAME("A")), 2, 2, 4, 4, part));
    assert_true(part[0] == 36 && part[4] == 52);
    st_close(set);
}

static void a_pattern_and_old_files_are_read(void **state)
{
    (void)state;
    struct adapter_config config;
    assert_ok(
        adapter_config_read(&config, folder_with_config("{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,"
                                                        "\"target_modules\":\".*_proj\"}")));
    assert_true(config.target_is_pattern);
    assert_string_equal(config.target_modules[0], ".*_proj");
    assert_true(config.lora_dropout == 0 && !config.use_rslora && !config.base_model_name_or_path);
    assert_ok(adapter_write(NULL, fs_posix(), folder("pattern"), &config,
                            &(struct st_item){NAME("A"), ST_F32, 2, {4, 4}, numbers}, 1));
    adapter_config_free(&config);
    assert_ok(adapter_config_read(&config, folder("pattern")));
    assert_true(config.target_is_pattern);
    adapter_config_free(&config);
}

static void what_lorad_does_not_do_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"\"use_dora\":true", "use_dora"},
        {"\"bias\":\"all\"", "bias"},
        {"\"modules_to_save\":[\"lm_head\"]", "modules_to_save"},
        {"\"rank_pattern\":{\"q_proj\":4}", "rank_pattern"},
        {"\"alpha_pattern\":{\"q_proj\":4}", "alpha_pattern"},
        {"\"layers_to_transform\":[0]", "layers_to_transform"},
        {"\"layers_to_transform\":0", "layers_to_transform"},
        {"\"layer_replication\":[[0,1]]", "layer_replication"},
        {"\"fan_in_fan_out\":true", "fan_in_fan_out"},
        {"\"lora_bias\":true", "lora_bias"},
        {"\"use_qalora\":true", "use_qalora"},
        {"\"exclude_modules\":\"o_proj\"", "exclude_modules"},
        {"\"target_parameters\":[\"a\"]", "target_parameters"},
        {"\"trainable_token_indices\":[1]", "trainable_token_indices"},
        {"\"init_lora_weights\":\"pissa\"", "init_lora_weights"},
        {"\"init_lora_weights\":\"pissa_niter_16\"", "init_lora_weights"},
        {"\"task_type\":\"SEQ_CLS\"", "task_type"},
        {"\"something_of_tomorrow\":3", "something_of_tomorrow"},
        {"\"use_rslora\":\"yes\"", "use_rslora"},
        {"\"lora_dropout\":1.5", "lora_dropout"},
    };
    char text[512];
    struct adapter_config config;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text,
                 "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"],%s}",
                 cases[i][0]);
        assert_fails(adapter_config_read(&config, folder_with_config(text)), LORAD_DATA, cases[i][1]);
    }
    static const char *const whole[][2] = {
        {"{\"peft_type\":\"IA3\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q\"]}", "peft_type"},
        {"{\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q\"]}", "peft_type"},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":16,\"target_modules\":[\"q\"]}", "\"r\" is 0"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q\"]}", "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16}", "target_modules"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q\",2]}", "entry 2"},
        {"[1]", "object"},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        assert_fails(adapter_config_read(&config, folder_with_config(whole[i][0])), LORAD_DATA, whole[i][1]);
    assert_fails(adapter_config_read(&config, folder("nowhere")), LORAD_NOT_FOUND, "adapter_config.json");
}

static void weights_that_are_no_plain_lora_are_refused(void **state)
{
    (void)state;
    struct st_set *set;
    struct st_item a = {NAME("A"), ST_F32, 2, {4, 8}, numbers}, b = {NAME("B"), ST_F32, 2, {8, 4}, numbers};
    assert_ok(adapter_open(&set, folder_with_weights((struct st_item[]){a, b}, 2)));
    st_close(set);
    assert_fails(adapter_open(&set, folder_with_weights(&a, 1)), LORAD_DATA, "has no lora_B");
    assert_fails(adapter_open(&set, folder_with_weights(&b, 1)), LORAD_DATA, "has no lora_A");
    assert_fails(adapter_open(&set, folder_with_weights(&a, 0)), LORAD_DATA, "no tensors");
    struct st_item c = b;
    c.shape[1] = 2;
    assert_fails(adapter_open(&set, folder_with_weights((struct st_item[]){a, c}, 2)), LORAD_DATA,
                 "has rank 4");
    c = b;
    c.n_dims = 1;
    assert_fails(adapter_open(&set, folder_with_weights((struct st_item[]){a, c}, 2)), LORAD_DATA,
                 "1 dimensions");
    c = b;
    c.dtype = ST_I32;
    assert_fails(adapter_open(&set, folder_with_weights((struct st_item[]){a, c}, 2)), LORAD_DATA, "is I32");
    c = b;
    c.name = "base_model.model.lm_head.weight";
    assert_fails(adapter_open(&set, folder_with_weights((struct st_item[]){a, b, c}, 3)), LORAD_DATA,
                 "lm_head.weight");
    assert_fails(adapter_open(&set, folder("nowhere")), LORAD_NOT_FOUND, "adapter_model.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_survives_a_round_trip),
        cmocka_unit_test(a_pattern_and_old_files_are_read),
        cmocka_unit_test(what_lorad_does_not_do_is_refused_by_name),
        cmocka_unit_test(weights_that_are_no_plain_lora_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
