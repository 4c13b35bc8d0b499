#!/usr/bin/env python3
"""PEFT + PyTorch: the peer of a speed comparison. Trains one variant or several and prints a JSON object a line for each.

    python3 tests/bench/peer_peft.py --work DIR --dtype f32|bf16 --cutoff 512 [options] [--also "OPTIONS"]...

DIR is what make_model made. One optimizer step is one pass over all rows, packed to --cutoff tokens, one pack a
micro-batch, loss summed over supervised tokens and divided once by their number. Every option below is a way to run
PEFT; a fair comparison takes the fastest that works:
  --attention packed   position_ids restart in every row, transformers makes the block-diagonal mask (right)
              causal   one causal sequence a pack: rows see the rows before them (wrong, but needs no mask)
  --adapter   f32      PEFT's default: adapter weights stay float32 beside a bf16 base
              same     adapter weights in the base's dtype
  --autocast           torch.autocast(bf16) around the forward, as TRL's bf16=True does
  --head      all      logits of every token, as transformers computes them
              supervised   the head on supervised tokens alone (no stock trainer does this)
  --sdpa      auto     PyTorch's own choice of an attention kernel
              cudnn    cuDNN's
  --compile            torch.compile of every decoder layer, which compiles one of them; the first step takes long
  --also               then, in the same process and from the same start, with these options of the above instead
  --device cuda        on the GPU; --packs N packs are one micro-batch [N, cutoff]
Step times exclude the first --warmup steps; memory is the peak resident set, whole process and since training began. On a
GPU: what is in use in the end, of which PyTorch gives nothing back before. --square SECONDS: first the rate of a square
product kept up so long.
"""
import argparse
import json
import pathlib
import resource
import shlex
import statistics
import time

import peft
import torch
import torch.nn.functional as F
import transformers


def read_packs(work, tokenizer, cutoff, mask):
    """Packs of rows of (ids, labels already shifted)."""
    packs, pack, room = [], [], cutoff
    for line in (work / "rows.jsonl").read_text("utf-8").splitlines():
        messages = json.loads(line)["messages"]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        supervised = [mask == "all"] * len(ids)
        if mask == "answers":
            prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=True, return_dict=False,
                                                   add_generation_prompt=True)
            assert ids[:len(prompt)] == prompt
            end = len(ids) - 1 - ids[::-1].index(tokenizer.convert_tokens_to_ids("<|im_end|>"))
            for i in range(len(prompt), end + 1):
                supervised[i] = True
        labels = [ids[i + 1] if i + 1 < len(ids) and supervised[i + 1] else -100 for i in range(len(ids))]
        if len(ids) > room:
            packs.append(pack)
            pack, room = [], cutoff
        pack.append((ids, labels))
        room -= len(ids)
    return packs + [pack]


def tensors_of(packs, attention, device):
    """Packs of one length as a batch: ids, labels, positions [packs, cutoff]."""
    ids = torch.tensor([[t for row, _ in pack for t in row] for pack in packs])
    labels = torch.tensor([[t for _, row in pack for t in row] for pack in packs])
    positions = torch.stack([torch.cat([torch.arange(len(row)) for row, _ in pack]) for pack in packs])
    if attention == "causal":
        positions = torch.arange(ids.shape[1])[None].expand_as(ids)
    return ids.to(device), labels.flatten().to(device), positions.to(device)


def resident_peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def square_rate(seconds, device):
    """TFLOP/s of a bf16 product of 8192 x 8192 random numbers."""
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    calls, start = 0, None
    while start is None or time.perf_counter() - start < seconds:
        for _ in range(20):
            torch.mm(a, b)
        torch.cuda.synchronize()
        if start is None:  # the first ones warmed up
            start = time.perf_counter()
        else:
            calls += 20
    return 2e-12 * n**3 * calls / (time.perf_counter() - start)


def prepare(model, arguments, dtype, initial):
    """The model as the variant wants it, from the same start; its body and its head."""
    for parameter, value in initial:
        parameter.data = value.to(parameter.device, dtype if arguments.adapter == "same" else value.dtype, copy=True)
        parameter.grad = None
    inner = model.get_base_model()
    torch._dynamo.reset()  # which attention a compiled layer calls was decided when it was compiled
    for layer in inner.model.layers:
        layer._compiled_call_impl = None
        if arguments.compile:
            layer.compile()
    return inner.model, inner.lm_head


def train(model, arguments, dtype, initial, packs):
    gpu = arguments.device == "cuda"
    body, head = prepare(model, arguments, dtype, initial)
    parameters = [parameter for parameter, _ in initial]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.0, fused=True)
    packs = [tensors_of(packs[i:i + arguments.packs], arguments.attention, arguments.device)
             for i in range(0, len(packs), arguments.packs)]
    tokens = sum(ids.numel() for ids, _, _ in packs)
    divisor = sum(int((labels >= 0).sum()) for _, labels, _ in packs)
    if gpu:
        torch.cuda.empty_cache()
        torch.backends.cuda.enable_flash_sdp(arguments.sdpa == "auto")
        torch.backends.cuda.enable_mem_efficient_sdp(arguments.sdpa == "auto")
    else:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again here
    seconds, losses, norms = [], [], []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        total = 0.0
        for ids, labels, positions in packs:
            with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.autocast):
                hidden = body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state.flatten(0, 1)
                if arguments.head == "supervised":
                    keep = labels >= 0
                    hidden, labels = hidden[keep], labels[keep]
                logits = head(hidden)
            loss = F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum") / divisor
            loss.backward()
            total += loss.detach()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(total))  # waits for the device
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[arguments.warmup:])
    free, total_bytes = torch.cuda.mem_get_info() if gpu else (0, 0)
    result = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in vars(arguments).items()}
    return result | dict(
        program=f"peft {peft.__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
        packs=len(packs), tokens=tokens, supervised=divisor, step_seconds=median, all_seconds=seconds,
        tokens_per_second=tokens / median, losses=losses, grad_norms=norms,
        train_peak_mib=(total_bytes - free) / 2**20 if gpu else resident_peak(),
        process_peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    parser.add_argument("--cutoff", type=int, default=512)
    parser.add_argument("--mask", choices=["answers", "all"], default="answers")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--packs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--square", type=float, default=0)
    parser.add_argument("--also", action="append", default=[])
    variant = argparse.ArgumentParser(add_help=False)
    variant.add_argument("--attention", choices=["packed", "causal"], default="packed")
    variant.add_argument("--adapter", choices=["f32", "same"], default="f32")
    variant.add_argument("--autocast", action="store_true")
    variant.add_argument("--head", choices=["all", "supervised"], default="all")
    variant.add_argument("--sdpa", choices=["auto", "cudnn"], default="auto")
    variant.add_argument("--compile", action="store_true")
    arguments, first = parser.parse_known_args()
    variants = [variant.parse_args(options) for options in [first, *map(shlex.split, arguments.also)]]

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    if arguments.square:
        print(json.dumps(dict(square_tflops=square_rate(arguments.square, arguments.device))), flush=True)
    dtype = torch.float32 if arguments.dtype == "f32" else torch.bfloat16
    model_dir = arguments.work / "model"
    # not AutoTokenizer: transformers 5 would rebuild the tokenizer of this family instead of reading tokenizer.json
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, attn_implementation="sdpa",
                                                              device_map=arguments.device)
    model = peft.PeftModel.from_pretrained(model, arguments.work / "adapter", is_trainable=True,
                                           autocast_adapter_dtype=True)
    model.config.use_cache = False
    model.train()
    initial = [(p, p.detach().to("cpu", copy=True)) for p in model.parameters() if p.requires_grad]
    packs = read_packs(arguments.work, tokenizer, arguments.cutoff, arguments.mask)
    for options in variants:
        shared = {k: v for k, v in vars(arguments).items() if k not in ("also", "square")}
        options = argparse.Namespace(**shared, **vars(options))
        print(json.dumps(train(model, options, dtype, initial, packs)), flush=True)


if __name__ == "__main__":
    main()
