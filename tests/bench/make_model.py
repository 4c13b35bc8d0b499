#!/usr/bin/env python3
"""Makes what a comparison needs: a random-weight model folder, an initial PEFT adapter and chat rows of one length.

    python3 tests/bench/make_model.py --shape NAME --out DIR [--rows 8] [--row-tokens 256] [--device cpu|cuda]

DIR/model     config.json, model.safetensors (bf16) and the tokenizer of tests/data/models/fin-zh-tiny, whose 6,400 ids are
              the first of the model's vocabulary
DIR/adapter   LoRA r 16, alpha 32, all seven linears, B = 0: both programs start from it
DIR/rows.jsonl  finance rows, prompts lengthened or cut so that every row is exactly --row-tokens tokens: however rows
              are ordered and packed, a step over all of them sees the same tokens in equally full packs
Deterministic: the same arguments make the same files.
"""
import argparse
import json
import os
import pathlib
import shutil

import peft
import torch
import transformers

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
# Names of config classes and what differs from their defaults; the small ones are Qwen2 with a tied head.
SHAPES = {
    "qwen2-0.5b": dict(hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                       intermediate_size=4864, vocab_size=151936),
    "100m": dict(hidden_size=640, num_hidden_layers=12, num_attention_heads=10, num_key_value_heads=2,
                 intermediate_size=2816, vocab_size=32000),
    "tiny": dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                 intermediate_size=384, vocab_size=8000),
    "llama-2-7b": dict(family="Llama", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=32, intermediate_size=11008, vocab_size=32000, rope_theta=1e4,
                       rms_norm_eps=1e-5, tie_word_embeddings=False),
    "llama-3-8b": dict(family="Llama", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, intermediate_size=14336, vocab_size=128256, rope_theta=5e5,
                       rms_norm_eps=1e-5, tie_word_embeddings=False),
    "qwen2-7b": dict(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                     intermediate_size=18944, vocab_size=152064, tie_word_embeddings=False),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(shape, out, device):
    values = dict(tie_word_embeddings=True, max_position_embeddings=8192, rms_norm_eps=1e-6, rope_theta=1e6,
                  bos_token_id=1, eos_token_id=2, pad_token_id=0) | SHAPES[shape]
    config = getattr(transformers, values.pop("family", "Qwen2") + "Config")(**values)
    torch.manual_seed(1)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, torch_dtype=torch.bfloat16)
    model.save_pretrained(out / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DATA / "models" / "fin-zh-tiny" / name, out / "model" / name)
    torch.manual_seed(2)
    model = peft.get_peft_model(model.float() if device == "cpu" else model, peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32,
                                                               lora_dropout=0.0, target_modules=TARGETS))
    model.save_pretrained(out / "adapter")
    parameters = sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
    print(f"{out / 'model'}: {shape}, {parameters / 1e6:.1f} M parameters")


def make_rows(out, count, length):
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    source = [json.loads(line)["messages"]
              for line in (DATA / "finance-zh" / "fin_stage1_general.jsonl").read_text("utf-8").splitlines()]
    prompts = "".join(m["content"] for messages in source for m in messages if m["role"] == "user")
    tokens_of = lambda messages: len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))
    rows, at = [], 0
    for messages in source:
        if len(rows) == count:
            break
        answer = messages[-1]
        if answer["role"] != "assistant" or tokens_of([answer]) > length - 32:
            continue
        low, high, found = 1, 4 * length, None
        while low < high:  # the longest prompt that does not pass the length, then a few shorter and other ones
            middle = (low + high + 1) // 2
            row = [dict(role="user", content=prompts[at:at + middle].strip()), answer]
            low, high = (middle, high) if tokens_of(row) <= length else (low, middle - 1)
        for characters in range(low + 4, max(low - 8, 0), -1):
            row = [dict(role="user", content=prompts[at:at + characters].strip()), answer]
            if tokens_of(row) == length:
                found = row
                break
        at += low
        if found:
            rows.append(found)
    assert len(rows) == count, f"only {len(rows)} rows of exactly {length} tokens"
    with open(out / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dict(messages=row), ensure_ascii=False) + "\n")
    print(f"{out / 'rows.jsonl'}: {count} rows of {length} tokens")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--row-tokens", type=int, default=256)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    if not (arguments.out / "adapter" / "adapter_model.safetensors").exists():
        make_model(arguments.shape, arguments.out, arguments.device)
    make_rows(arguments.out, arguments.rows, arguments.row_tokens)


if __name__ == "__main__":
    main()
