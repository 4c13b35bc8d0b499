#!/usr/bin/env python3
"""lorad beside PEFT + PyTorch: the same model, adapter, rows, optimizer and cores, in turn, and a table of ratios.

    tests/bench/run_peer.sh --lorad build/lorad [--work DIR] [--shapes 100m,qwen2-0.5b] [--dtypes f32,bf16]
        [--cutoffs 512,1024] [--masks answers,all] [--steps 7] [--cores 0,1] [--compile] [--json FILE]
    tests/bench/run_peer.sh --device cuda --shapes llama-3-8b --dtypes bf16 --cutoffs 2048 --masks all --rows 8 [--packs 4]

Both start from the same adapter (B = 0) and train one optimizer step per pass over rows of equal length, so that a
step is the same tokens in equally full packs whatever the order. The peer runs every stock variant (see peer_peft.py)
and its fastest one counts; a variant of our own making, with the head on supervised tokens alone, stands beside it.
lorad runs before and after the peer and its slower run counts. tokens/s: median of the steps after the second.
Memory: peak resident set of the process, for the peer of the variant that counts (since training began: its start-up
copies are not held against it). On a GPU: what nvidia-smi shows at most while the process runs, less what was in use
before; a row fills a pack there, so that plain causal attention is right for both; lorad runs in its fast and in its
deterministic mode and the fast one is compared. --packs: packs of one micro-batch.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
WARMUP = 2


def variants(a, dtype):
    """(name, options, stock): how the peer may be run."""
    if a.device == "cuda":
        found = [("bf16 adapter", ["--adapter", "same"]), ("autocast", ["--autocast"]), ("f32 adapter", [])]
        found = [(n, o + ["--attention", "causal"], True) for n, o in found if dtype == "bf16" or n == "f32 adapter"]
        if a.compile:
            found.append((found[0][0] + " compiled", found[0][1] + ["--compile"], True))
        return found
    compile_too = a.compile
    base = [("packed", []), ("plain causal", ["--attention", "causal"])]
    if dtype == "bf16":
        adapters = [("f32 adapter", []), ("bf16 adapter", ["--adapter", "same"]), ("autocast", ["--autocast"])]
    else:
        adapters = [("", [])]
    found = [(f"{a} {b}".strip(), x + y, True) for a, x in adapters for b, y in base]
    if compile_too:
        found += [(f"{a} packed compiled".strip(), x + ["--compile"], True) for a, x in adapters[1:] or adapters]
    return found + [(f"{a} packed, head on supervised tokens".strip(), x + ["--head", "supervised"], False)
                    for a, x in adapters[1:] or adapters]


class GpuWatch(threading.Thread):
    """Most GPU memory in use (MiB) and mean utilisation (percent of time in which a kernel ran) while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stopped, self.base, self.peak, self.busy = threading.Event(), None, 0, []

    def run(self):
        query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.stopped.wait(0.1):
            words = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0].split(",")
            used, busy = int(words[0]), int(words[1]) if words[1].strip().isdigit() else 0  # some virtual GPUs do not say
            self.base = used if self.base is None else self.base
            self.peak = max(self.peak, used - self.base)
            self.busy.append((time.monotonic(), busy))


def run(command, a):
    """Runs on the given cores; output text and peak MiB of that process (resident, or of the GPU)."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(len(a.cores)))
    watch = GpuWatch() if a.device == "cuda" else None
    if watch:
        watch.start()
        while watch.base is None:
            if not watch.is_alive():
                sys.exit("nvidia-smi does not say how much memory of the GPU is in use")
            time.sleep(0.05)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=environment,
                                   preexec_fn=lambda: os.sched_setaffinity(0, a.cores))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if watch:
            watch.stopped.set()
        out.seek(0), err.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{err.read()[-3000:]}")
        return out.read(), watch.peak if watch else usage.ru_maxrss / 1024


def run_peer(a, case, options):
    command = [a.python, HERE / "peer_peft.py", "--work", a.work / case["shape"], "--dtype", case["dtype"], "--cutoff",
               case["cutoff"], "--mask", case["mask"], "--steps", a.steps, "--warmup", WARMUP, "--threads",
               len(a.cores), "--device", a.device, "--packs", a.packs]
    text, peak = run(command + options, a)
    result = json.loads(text)
    return dict(rate=result["tokens_per_second"], peak=peak if a.device == "cuda" else result["train_peak_mib"], losses=result["losses"],
                norms=result["grad_norms"], supervised=result["supervised"], tokens=result["tokens"])


def run_lorad(a, case, deterministic="true"):
    work = a.work / case["shape"]
    out = work / "lorad"
    shutil.rmtree(out, ignore_errors=True)
    rows = sum(1 for _ in open(work / "rows.jsonl"))
    config = dict(model_name_or_path=work / "model", adapter_name_or_path=work / "adapter", train_file=work / "rows.jsonl",
                  output_dir=out, template="auto", cutoff_len=case["cutoff"], packing="true", lora_rank=16, lora_alpha=32,
                  lora_dropout=0.0, lora_target="all", learning_rate=1.0e-4, lr_scheduler_type="constant",
                  weight_decay=0.0, max_grad_norm=1.0, max_steps=a.steps, per_device_train_batch_size=a.packs,
                  global_batch_size=rows * case["row_tokens"] // case["cutoff"], logging_steps=1, eval_strategy="no",
                  save_strategy="no", report_to="none", device=a.device, deterministic=deterministic,
                  train_on_prompt="true" if case["mask"] == "all" else "false")
    config["bf16" if case["dtype"] == "bf16" else "fp32"] = "true"
    path = work / "lorad.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in config.items()))
    metrics, first = out / "logs" / "metrics.jsonl", []
    start = time.monotonic()

    def wait_for_first():  # an overwritten folder has no metrics until the first step is done
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        first.append(time.monotonic() - start)
    waiting = threading.Thread(target=wait_for_first, daemon=True)
    waiting.start()
    _, peak = run([a.lorad, "--config", path], a)
    waiting.join()
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [s for s in steps if "grad_norm" in s]
    return dict(rate=statistics.median(s["tokens_per_second"] for s in steps[WARMUP:]), peak=peak,
                first_step=first[0], losses=[s["loss"] for s in steps], norms=[s["grad_norm"] for s in steps],
                supervised=steps[0].get("supervised_tokens"))


def compare(a, case):
    print(f"\n## {case['shape']} {case['dtype']} packed {case['cutoff']}, supervised: {case['mask']}\n")
    print(f"{'':44}{'tokens/s':>10}{'peak MiB':>10}   loss of each step", flush=True)

    def show(name, r):
        losses = " ".join(f"{x:.5f}" for x in r["losses"])
        start = f"   first step done after {r['first_step']:.2f} s" if "first_step" in r else ""
        print(f"{name:44}{r['rate']:10.1f}{r['peak']:10.0f}   {losses}{start}", flush=True)
        return r
    fast = "false" if a.device == "cuda" else "true"
    before = show("lorad, before", run_lorad(a, case, fast))
    if a.device == "cuda":
        show("lorad, deterministic", run_lorad(a, case))
    peers = [(name, stock, show(f"peer: {name}", run_peer(a, case, options)))
             for name, options, stock in variants(a, case["dtype"])]
    after = show("lorad, after", run_lorad(a, case, fast))
    ours = min(before, after, key=lambda r: r["rate"])
    best = max((p for p in peers if p[1]), key=lambda p: p[2]["rate"])
    own = max((p for p in peers if not p[1]), key=lambda p: p[2]["rate"], default=best)
    right = next((r for n, _, r in peers if "causal" not in n))
    worst = max(abs(x - y) / abs(y) for x, y in zip(ours["losses"], right["losses"]))
    norm = max(abs(x - y) / abs(y) for x, y in zip(ours["norms"], right["norms"]))
    print(f"supervised tokens a step: lorad {ours['supervised']}, peer {right['supervised']}; against the packed peer: "
          f"loss within {worst:.1e}, gradient norm within {norm:.1e}")
    print(f"lorad / fastest stock peer ({best[0]}): {ours['rate'] / best[2]['rate']:.2f} x tokens/s, "
          f"{ours['peak'] / best[2]['peak']:.2f} x memory; / {own[0]}: {ours['rate'] / own[2]['rate']:.2f} x", flush=True)
    return dict(case, lorad=ours, peer=best[2], peer_variant=best[0], own=own[2], loss_difference=worst,
                norm_difference=norm, speed=ours["rate"] / best[2]["rate"], memory=ours["peak"] / best[2]["peak"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    listed = lambda text: text.split(",")
    parser.add_argument("--lorad", type=pathlib.Path, default=HERE.parent.parent / "build" / "lorad")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "lorad-bench")
    parser.add_argument("--shapes", type=listed, default=["100m", "qwen2-0.5b"])
    parser.add_argument("--dtypes", type=listed, default=["f32", "bf16"])
    parser.add_argument("--cutoffs", type=listed, default=["512", "1024"])
    parser.add_argument("--masks", type=listed, default=["answers", "all"])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row-tokens", type=int, help="default: 256; on a GPU the whole pack")
    parser.add_argument("--cores", type=lambda text: [int(c) for c in text.split(",")], default=[0, 1])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--packs", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile (a minute a variant)")
    parser.add_argument("--json", type=pathlib.Path)
    a = parser.parse_args()
    if a.steps <= WARMUP:
        parser.error(f"--steps must be more than the {WARMUP} steps of warm-up")
    results = []
    for shape in a.shapes:
        for cutoff in map(int, a.cutoffs):
            length = a.row_tokens or (cutoff if a.device == "cuda" else 256)
            subprocess.run([a.python, HERE / "make_model.py", "--shape", shape, "--out", a.work / shape, "--rows",
                            str(a.rows), "--row-tokens", str(length), "--device", a.device], check=True,
                           stderr=subprocess.DEVNULL)
            for dtype in a.dtypes:
                for mask in a.masks:
                    results.append(compare(a, dict(shape=shape, dtype=dtype, cutoff=cutoff, mask=mask,
                                                   row_tokens=length)))
    print("\n## lorad / fastest stock peer\n")
    print("| shape | type | packed | supervised | lorad tokens/s | peer tokens/s | speed | memory | loss differs by |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        print(f"| {r['shape']} | {r['dtype']} | {r['cutoff']} | {r['mask']} | {r['lorad']['rate']:.0f} | "
              f"{r['peer']['rate']:.0f} ({r['peer_variant']}) | {r['speed']:.2f} x | {r['memory']:.2f} x | "
              f"{r['loss_difference']:.0e} |")
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
