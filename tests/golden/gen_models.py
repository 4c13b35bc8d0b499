#!/usr/bin/env python3
"""Writes tests/data/golden/: tiny models with a PEFT adapter and what transformers + PEFT + torch make of them.

    pip install -r tests/golden/requirements.txt
    python3 tests/golden/gen_models.py [--out tests/data/golden] [--only NAME] [--check]

The reference runs every row of a pack ALONE, without padding and without packing, and divides the summed loss by the
number of supervised tokens of the whole optimizer step. Agreement with it therefore shows that packing does not leak
between rows and that accumulation is normalised by tokens, not by micro-batches.

Every folder NAME/ holds
    model/      config.json and safetensors as transformers saves them
    adapter/    the initial adapter as PEFT saves it (B is not zero, so that every gradient says something)
    golden.safetensors
        __metadata__   made_with: the versions that made the file
        options        f64 [7]    learning rate, weight decay, beta1, beta2, epsilon, clip norm, warmup steps
        tokens         i32 [N]    the tokens of all micro-batches, one after the other
        labels         i32 [N]    the next token of the row where it is supervised, else -1 (already shifted)
        micro_start    i32 [M+1]  micro-batch m is tokens [micro_start[m], micro_start[m+1])
        seq_start      i32 [S]    the row starts of all micro-batches, each ending with its number of tokens
        micro_seq      i32 [M+1]  micro-batch m owns seq_start[micro_seq[m] .. micro_seq[m+1])
        step_micro     i32 [K+1]  optimizer step k owns micro-batches [step_micro[k], step_micro[k+1])
        logits         f32 [T,V]  of micro-batch 0 under the initial adapter, all tokens
        loss           f64 [K]    mean over the supervised tokens of the step, before its update
        grad_norm      f64 [K]    2-norm over all adapter gradients, before clipping
        lr             f64 [K]    transformers.get_cosine_schedule_with_warmup
        supervised     i64 [K]    supervised tokens of the step
        grad.<name>    f32        step 1: gradient of the mean loss before clipping, <name> as in the adapter file
        final.<name>   f32        the adapter after step K
The files are the same bits when made again on the same processor.

--check repeats the training with all arithmetic in float64 and prints how far the float32 files are from it: the room
that a tolerance has.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import warnings

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

STEPS, MICRO, TOKENS, WARMUP = 20, 3, 96, 5
LR, DECAY, BETA1, BETA2, EPS = 1e-3, 0.01, 0.9, 0.999, 1e-8
WEIGHT_STD, LORA_B_STD = 0.15, 0.05

# name -> (config class, its arguments, LoRA arguments, dtype on disk, shard size, clip norm)
BASE = dict(num_hidden_layers=2, intermediate_size=160, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, use_cache=False)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    # multi-head attention, head_dim is not hidden / heads, separate head
    "llama_mha": (transformers.LlamaConfig,
                  dict(vocab_size=320, hidden_size=64, num_attention_heads=4, num_key_value_heads=4, head_dim=24,
                       rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False),
                  dict(r=8, lora_alpha=16, target_modules=ALL), torch.float32, None, 1.25),
    # Llama 3: wavelengths on all three sides of the llama3 rule at these lengths; grouped queries; tied; rslora; f16 file
    "llama3_rope": (transformers.LlamaConfig,
                    dict(vocab_size=384, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                         rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
                         rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64)),
                    dict(r=8, lora_alpha=16, use_rslora=True, target_modules=ALL), torch.float16, None, 13.0),
    # linear rope scaling, one key-value head, the adapter on q and v alone
    "llama_linear": (transformers.LlamaConfig,
                     dict(vocab_size=320, hidden_size=64, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
                          rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=True,
                          rope_scaling=dict(rope_type="linear", factor=4.0)),
                     dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]), torch.bfloat16, None, 3.25),
    # sliding window shorter than the rows, sharded file, the adapter on parts of the fused linears
    "mistral_window": (transformers.MistralConfig,
                       dict(vocab_size=352, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                            rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, sliding_window=16),
                       dict(r=8, lora_alpha=16, target_modules=["k_proj", "o_proj", "gate_proj", "down_proj"]),
                       torch.bfloat16, "150KB", 0.95),
    # biases on q, k, v; three query heads per key-value head; separate head
    "qwen2_bias": (transformers.Qwen2Config,
                   dict(vocab_size=320, hidden_size=96, num_attention_heads=6, num_key_value_heads=2,
                        rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=False),
                   dict(r=8, lora_alpha=16, target_modules=ALL), torch.bfloat16, None, 1.85),
    # 2 key-value heads for 8 query heads (replicated at TP 4 and 8), a vocabulary that no TP divides; "all-linear", which
    # PEFT writes as whole module paths for models of few modules
    "qwen2_kv2": (transformers.Qwen2Config,
                  dict(vocab_size=323, hidden_size=64, num_attention_heads=8, num_key_value_heads=2,
                       intermediate_size=192, rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=True),
                  dict(r=8, lora_alpha=16, target_modules="all-linear"), torch.float32, None, 5.75),
    # q and k norm, explicit head_dim, tied, a rank that is no multiple of anything
    "qwen3_norm": (transformers.Qwen3Config,
                   dict(vocab_size=320, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                        rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True),
                   dict(r=5, lora_alpha=16, target_modules=ALL), torch.bfloat16, None, 6.0),
}


def make_model(case, seed):
    config_class, arguments, _, dtype, _, _ = case
    config = config_class(**(BASE | arguments))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # tied weights come once
            noise = torch.randn(parameter.shape, generator=generator)
            value = 1 + 0.2 * noise if "norm" in name else noise * (0.5 if "embed_tokens" in name else WEIGHT_STD)
            parameter.copy_(value.to(dtype).float())  # exactly what the file will say
    return model


def make_adapter(model, case, seed):
    arguments = dict(lora_dropout=0.0) | case[2]
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", bias="none", **arguments))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                bound = 1 / math.sqrt(parameter.shape[1])
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
            elif "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * LORA_B_STD)
    return model


def make_rows(vocab, seed):
    """steps -> micro-batches -> rows of (tokens, labels)."""
    random = np.random.default_rng(seed)
    steps = []
    for step in range(STEPS):
        micros = []
        for micro in range(MICRO if step < STEPS - 1 else MICRO - 1):  # the last window is a partial one
            lengths = []
            for left in range(int(random.integers(2, 5)), 0, -1):
                room = TOKENS - sum(lengths)
                lengths.append(int(random.integers(room // (left + 1), room // left + 1)) if left > 1
                               else room - int(random.integers(0, 9)))
            rows = []
            for length in lengths:
                tokens = random.integers(3, vocab, length)
                for i in range(1, length):  # something to learn
                    if random.random() < 0.7:
                        tokens[i] = 3 + (5 * tokens[i - 1] + 7) % (vocab // 4)
                kind = random.integers(0, 4)
                supervised = np.ones(length, bool)
                if kind in (0, 1):  # a prompt
                    supervised[:int(random.integers(1, length))] = False
                elif kind == 2:
                    supervised = random.random(length) < 0.6
                if (step, micro) == (6, 1):  # a micro-batch without any target
                    supervised[:] = False
                labels = np.full(length, -1)
                labels[:-1][supervised[1:]] = tokens[1:][supervised[1:]]
                rows.append((tokens, labels))
            micros.append(rows)
        steps.append(micros)
    return steps


def short_name(name):
    return name.replace(".default.weight", ".weight")


def train(model, steps, max_grad_norm, dtype=torch.float32):
    parameters = {short_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY,
                                  foreach=False, fused=False)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    out = dict(loss=[], grad_norm=[], lr=[], supervised=[])
    logits = [model(torch.tensor(tokens)[None]).logits[0].detach() for tokens, _ in steps[0][0]]
    out["logits"] = torch.cat(logits)
    for number, micros in enumerate(steps):
        divisor = sum(int((labels >= 0).sum()) for rows in micros for _, labels in rows)
        total = 0.0
        optimizer.zero_grad()
        for rows in micros:
            for tokens, labels in rows:
                if not (labels >= 0).any():
                    continue
                z = model(torch.tensor(tokens)[None]).logits[0]
                loss = F.cross_entropy(z.double(), torch.tensor(labels), ignore_index=-1, reduction="sum") / divisor
                loss.backward()
                total += loss.item()
        gradients = {n: p.grad.clone() for n, p in parameters.items()}
        if number == 0:
            out["grad"] = gradients
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients.values()))
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), max_grad_norm)
        out["loss"].append(total)
        out["grad_norm"].append(norm)
        out["lr"].append(schedule.get_last_lr()[0])
        out["supervised"].append(divisor)
        optimizer.step()
        schedule.step()
    out["final"] = {n: p.detach().clone() for n, p in parameters.items()}
    return out


def flatten(steps):
    tokens, labels, micro_start, seq_start, micro_seq, step_micro = [], [], [0], [], [0], [0]
    for micros in steps:
        for rows in micros:
            at = 0
            for row_tokens, row_labels in rows:
                seq_start.append(at)
                at += len(row_tokens)
                tokens.extend(row_tokens.tolist())
                labels.extend(row_labels.tolist())
            seq_start.append(at)
            micro_seq.append(len(seq_start))
            micro_start.append(len(tokens))
        step_micro.append(len(micro_start) - 1)
    i32 = lambda x: torch.tensor(x, dtype=torch.int32)
    return dict(tokens=i32(tokens), labels=i32(labels), micro_start=i32(micro_start), seq_start=i32(seq_start),
                micro_seq=i32(micro_seq), step_micro=i32(step_micro))


class Float64Torch:
    """Stands for the module `torch` inside a modelling file: its float32 is float64."""
    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def to_float64(model, case):
    """transformers computes norms, softmax and rotations in float32 whatever the weights: lift that too."""
    import importlib
    from transformers import modeling_rope_utils
    kind = case[0].model_type
    modelling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    modelling.torch = Float64Torch()
    model = model.double()
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            # inv_freq keeps its float32 value, as lorad's table does; cos and sin are taken in float64
            inv_freq = module.inv_freq.double()

            def forward(x, position_ids, inv_freq=inv_freq, scaling=module.attention_scaling):
                angles = position_ids[..., None].double() * inv_freq
                angles = torch.cat((angles, angles), -1)
                return angles.cos() * scaling, angles.sin() * scaling
            module.forward = forward
    return model, modelling


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def report_check(name, case, out, seed, steps, start):
    model = make_adapter(make_model(case, seed), case, seed + 1)
    model, modelling = to_float64(model, case)
    try:
        exact = train(model, steps, case[5], torch.float64)
    finally:
        modelling.torch = torch
    relative = lambda a, b: max(abs(x - y) / abs(y) for x, y in zip(a, b))
    print(f"  float32 against float64: logits {((out['logits'] - exact['logits']).abs().max() / exact['logits'].abs().max()):.1e}"
          f"  loss {relative(out['loss'], exact['loss']):.1e}  norm {relative(out['grad_norm'], exact['grad_norm']):.1e}"
          f"  gradients {max(distance(out['grad'][n], g) for n, g in exact['grad'].items()):.1e}"
          f"  final A - A0, B {max(distance(out['final'][n] - (start[n] if 'lora_A' in n else 0), p.double() - (start[n] if 'lora_A' in n else 0)) for n, p in exact['final'].items()):.1e}")


def write_case(name, folder, check):
    case, seed = CASES[name], 1000 * (1 + list(CASES).index(name))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = make_model(case, seed)
    stored = make_model(case, seed).to(case[3])
    stored.save_pretrained(folder / "model", max_shard_size=case[4] or "5GB")
    (folder / "model" / "generation_config.json").unlink()
    model = make_adapter(model, case, seed + 1)
    model.peft_config["default"].base_model_name_or_path = "../model"
    # a set in memory, so its order differs from run to run; sorted here and in the file
    model.save_pretrained(folder / "adapter")
    config_path = folder / "adapter" / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["target_modules"].sort()
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)

    # the files must say what is trained from
    again = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", torch_dtype=torch.float32)
    for n, p in again.named_parameters():
        assert torch.equal(p, dict(stored.named_parameters())[n].float()), n
    start = {short_name(n): p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert set(saved) == set(start) and all(torch.equal(saved[n], start[n]) for n in saved)

    steps = make_rows(case[1]["vocab_size"], seed + 2)
    out = train(model, steps, case[5])
    clipped = sum(n > case[5] for n in out["grad_norm"])
    print(f"{name}: loss {out['loss'][0]:.4f} .. {out['loss'][-1]:.4f}, norm {min(out['grad_norm']):.3f} .. "
          f"{max(out['grad_norm']):.3f}, clipped {clipped} of {STEPS}")
    assert 3 <= clipped <= STEPS - 3, "choose another clip norm"
    if check:
        report_check(name, case, out, seed, steps, start)

    tensors = flatten(steps)
    tensors["logits"] = out["logits"].contiguous()
    for key in ("loss", "grad_norm", "lr"):
        tensors[key] = torch.tensor(out[key], dtype=torch.float64)
    tensors["supervised"] = torch.tensor(out["supervised"], dtype=torch.int64)
    for n in start:
        tensors[f"grad.{n}"] = out["grad"][n].contiguous()
        tensors[f"final.{n}"] = out["final"][n].contiguous()
    tensors["options"] = torch.tensor([LR, DECAY, BETA1, BETA2, EPS, case[5], WARMUP], dtype=torch.float64)
    made_with = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    # one key only: the writer orders several by a random hash
    save_file(tensors, folder / "golden.safetensors", {"made_with": made_with})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--out", type=pathlib.Path, default=here.parent / "data" / "golden")
    parser.add_argument("--only")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Could not find a config file")
    for name in CASES:
        if arguments.only in (None, name):
            torch.manual_seed(0)
            write_case(name, arguments.out / name, arguments.check)


if __name__ == "__main__":
    main()
