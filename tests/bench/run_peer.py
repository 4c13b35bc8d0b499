#!/usr/bin/env python3
"""lorad beside PEFT + PyTorch: the same model, adapter, rows, optimizer and cores, in turn, and a table of ratios.

    tests/bench/run_peer.sh --lorad build/lorad [--work DIR] [--shapes 100m,qwen2-0.5b] [--dtypes f32,bf16]
        [--cutoffs 512,1024] [--masks answers,all] [--steps 7] [--cores 0,1] [--compile] [--json FILE]
    tests/bench/run_peer.sh --device cuda --shapes llama-3-8b --dtypes bf16 --cutoffs 2048 --masks all --rows 8 [--packs 4]
        [--long-steps 50] [--peer-limit SECONDS] [--peer-variants autocast,compiled]

Both start from the same adapter (B = 0) and train one optimizer step per pass over rows of equal length, so that a
step is the same tokens in equally full packs whatever the order. The peer runs every stock variant (see peer_peft.py)
and its fastest one counts; a variant of our own making, with the head on supervised tokens alone, stands beside it.
lorad runs before and after the peer and its slower run counts. tokens/s: median of the steps after the second.
Memory: peak resident set of the process, for the peer of the variant that counts (since training began: its start-up
copies are not held against it).

On a GPU: memory is what nvidia-smi (lorad) or CUDA (the peer) says is in use, less what was in use before. A row fills a
pack, so that plain causal attention is right for both. The peer's variants run in one process, which loads the model
once; when --peer-limit is over, those that are done count: the fastest for speed, autocast (an f32 adapter) for losses
and norms. lorad runs in its fast and in its deterministic mode and the fast one is compared; its last run takes --long-steps steps and shows also the seconds from exec to the end of the first
step, the share of the time in which the GPU is busy, and memory beside the plan. --packs: packs of one micro-batch.
"""
import argparse
import json
import os
import pathlib
import re
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
        found = [("bf16-adapter", ["--adapter", "same"]), ("autocast", ["--autocast"]),
                 ("compiled", ["--adapter", "same", "--compile"]),
                 ("compiled-cudnn", ["--adapter", "same", "--compile", "--sdpa", "cudnn"])]
        if dtype != "bf16":
            found = [("f32-adapter", [])]
        return [(n, o + ["--attention", "causal"], True) for n, o in found if not a.peer_variants or n in a.peer_variants]
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
    """Most GPU memory in use (MiB) and the utilisation (percent of time in which a kernel ran) ten times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        self.base, self.peak, self.busy = None, 0, []
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.start()
        for _ in range(200):  # until there is a first line; a machine that shows none is measured without
            if self.base is not None or not self.is_alive():
                break
            time.sleep(0.05)

    def run(self):
        for line in self.process.stdout:
            words = [word.strip() for word in line.split(",")]
            if not words[0].isdigit():
                continue
            used = int(words[0])
            self.base = used if self.base is None else self.base
            self.peak = max(self.peak, used - self.base)
            if words[-1].isdigit():  # some virtual GPUs do not say
                self.busy.append((time.monotonic(), int(words[-1])))

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def busy_between(self, start, end):
        """Mean utilisation; the first samples still speak of what was before."""
        samples = [busy for when, busy in self.busy if start + 1 < when < end]
        return statistics.mean(samples) if samples else float("nan")


def run(command, a, limit=None):
    """Runs on the given cores; output text, peak MiB of that process (resident, or of the GPU), and the GPU's watch. A
    limit: seconds, after which it is ended and what it has said counts."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(len(a.cores)), HF_HUB_OFFLINE="1")
    watch = GpuWatch() if a.device == "cuda" else None
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=environment,
                                   preexec_fn=lambda: os.sched_setaffinity(0, a.cores))
        timer = threading.Timer(limit or 1e6, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if watch:
            watch.stop()
        out.seek(0), err.seek(0)
        text = out.read()
        if process.returncode:
            problem = f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{err.read()[-3000:]}"
            if not limit or not text:
                sys.exit(problem)
            print(problem, flush=True)
        return text, watch.peak if watch else usage.ru_maxrss / 1024, watch


def peer_command(a, case):
    return [a.python, HERE / "peer_peft.py", "--work", a.work / case["shape"], "--dtype", case["dtype"], "--cutoff",
            case["cutoff"], "--mask", case["mask"], "--steps", a.steps, "--warmup", WARMUP, "--threads",
            len(a.cores), "--device", a.peer_device or a.device, "--packs", a.packs]


def peer_result(line, base=0.0):
    result = json.loads(line)
    return dict(rate=result["tokens_per_second"], peak=result["train_peak_mib"] - base, losses=result["losses"],
                norms=result["grad_norms"], supervised=result["supervised"], tokens=result["tokens"],
                program=result["program"])


def run_peers(a, case):
    """(name, stock, result) of every variant. On the CPU each is a process of its own, whose memory is its own."""
    found = variants(a, case["dtype"])
    if a.device == "cpu":
        return [(name, stock, peer_result(run(peer_command(a, case) + options, a)[0])) for name, options, stock in found]
    command = peer_command(a, case) + ["--square", str(a.square)] + found[0][1]
    for _, options, _ in found[1:]:
        command.append(f"--also={' '.join(options)}")
    text, _, watch = run(command, a, a.peer_limit)
    lines = text.splitlines()
    if a.square and lines:
        print(f"PyTorch's square product of 8192 for {a.square:g} s: {json.loads(lines.pop(0))['square_tflops']:.1f} TFLOP/s")
    if not lines:
        sys.exit("no variant of the peer came to its end")
    return [(name, stock, peer_result(line, watch.base or 0)) for (name, _, stock), line in zip(found, lines)]


def write_config(a, case, deterministic, steps):
    work = a.work / case["shape"]
    rows = sum(1 for _ in open(work / "rows.jsonl"))
    config = dict(model_name_or_path=work / "model", adapter_name_or_path=work / "adapter", train_file=work / "rows.jsonl",
                  output_dir=work / "lorad", template="auto", cutoff_len=case["cutoff"], packing="true", lora_rank=16,
                  lora_alpha=32, lora_dropout=0.0, lora_target="all", learning_rate=1.0e-4,
                  lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, max_steps=steps,
                  per_device_train_batch_size=a.packs,
                  global_batch_size=rows * case["row_tokens"] // case["cutoff"], logging_steps=1, eval_strategy="no",
                  save_strategy="no", report_to="none", device=a.device, deterministic=deterministic,
                  train_on_prompt="true" if case["mask"] == "all" else "false")
    config["bf16" if case["dtype"] == "bf16" else "fp32"] = "true"
    path = work / "lorad.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in config.items()))
    return path


def planned(a, path):
    """MiB by name of what `lorad check` plans for this machine."""
    text = subprocess.run([str(a.lorad), "check", "--config", str(path)], capture_output=True, text=True).stdout
    return {name.strip(): float(size) for name, size in re.findall(r"^  (.+?)  +([0-9.]+) MiB$", text, re.M)}


def run_lorad(a, case, deterministic="true", steps=None):
    work = a.work / case["shape"]
    out = work / "lorad"
    shutil.rmtree(out, ignore_errors=True)
    path = write_config(a, case, deterministic, steps or a.steps)
    metrics, seen = out / "logs" / "metrics.jsonl", []
    start = time.monotonic()

    def wait_for_steps():  # an overwritten folder has no metrics until the first step is done
        while not done.wait(0.01):
            if len(seen) == 0 and metrics.exists() and metrics.stat().st_size:
                seen.append(time.monotonic())
    done = threading.Event()
    waiting = threading.Thread(target=wait_for_steps, daemon=True)
    waiting.start()
    _, peak, watch = run([a.lorad, "--config", path], a)
    end = time.monotonic()
    done.set()
    waiting.join()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [s for s in lines if "grad_norm" in s]
    result = dict(rate=statistics.median(s["tokens_per_second"] for s in lines[WARMUP:]), peak=peak,
                  first_step=seen[0] - start if seen else float("nan"), losses=[s["loss"] for s in lines][:a.steps],
                  norms=[s["grad_norm"] for s in lines][:a.steps], supervised=lines[0].get("supervised_tokens"))
    if watch:
        result["busy"] = watch.busy_between(seen[0] if seen else start, end - 0.3)
    return result


def show(name, r):
    losses = " ".join(f"{x:.5f}" for x in r["losses"])
    start = f"   first step done after {r['first_step']:.2f} s" if "first_step" in r else ""
    print(f"{name:44}{r['rate']:10.1f}{r['peak']:10.0f}   {losses}{start}", flush=True)
    return r


def tell_gpu(a, case, last):
    """What only the long run on a GPU can say."""
    plan = planned(a, write_config(a, case, "false", a.steps))
    print(f"{a.long_steps} steps of lorad: exec to the end of step 1 {last['first_step']:.2f} s, the GPU busy "
          f"{last['busy']:.1f} % of the time (nvidia-smi), {last['rate']:.0f} tokens/s (median of the steps)")
    if plan:
        needed = plan["frozen weights"] + plan["saved activations"] + plan["adapter and its optimizer"]
        print(f"memory: in use {last['peak']:.0f} MiB with CUDA's own; planned {plan['a rank in all']:.0f} MiB "
              f"({last['peak'] / plan['a rank in all']:.3f} x), of it weights, state and saved set {needed:.0f} "
              f"({last['peak'] / needed:.3f} x)", flush=True)


def compare(a, case):
    gpu = a.device == "cuda"
    print(f"\n## {case['shape']} {case['dtype']} packed {case['cutoff']}, supervised: {case['mask']}\n")
    print(f"{'':44}{'tokens/s':>10}{'peak MiB':>10}   loss of each step", flush=True)
    fast = "false" if gpu else "true"
    before = show("lorad, before", run_lorad(a, case, fast))
    if gpu:
        show("lorad, deterministic", run_lorad(a, case))
    peers = run_peers(a, case)
    for name, _, result in peers:
        show(f"peer: {name}", result)
    after = show("lorad, after", run_lorad(a, case, fast, a.long_steps if gpu else None))
    if gpu:
        tell_gpu(a, case, after)
    ours = min(before, after, key=lambda r: r["rate"])
    best = max((p for p in peers if p[1]), key=lambda p: p[2]["rate"])
    own = max((p for p in peers if not p[1]), key=lambda p: p[2]["rate"], default=best)
    right = next((r for n, _, r in peers if "causal" not in n and (not gpu or "autocast" in n)), peers[0][2])
    worst = max(abs(x - y) / abs(y) for x, y in zip(ours["losses"], right["losses"]))
    norm = max(abs(x - y) / abs(y) for x, y in zip(ours["norms"], right["norms"]))
    print(f"supervised tokens a step: lorad {ours['supervised']}, peer {right['supervised']} ({right['program']}); against "
          f"the {'autocast' if gpu else 'packed'} peer: loss within {worst:.1e}, gradient norm within {norm:.1e}")
    print(f"lorad / fastest stock peer ({best[0]}): {ours['rate'] / best[2]['rate']:.2f} x tokens/s, "
          f"{ours['peak'] / best[2]['peak']:.2f} x memory; / {own[0]}: {ours['rate'] / own[2]['rate']:.2f} x", flush=True)
    return dict(case, lorad=ours, peer=best[2], peer_variant=best[0], own=own[2], loss_difference=worst,
                norm_difference=norm, speed=ours["rate"] / best[2]["rate"], memory=ours["peak"] / best[2]["peak"],
                peers={name: result for name, _, result in peers}, after=after)


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
    parser.add_argument("--compile", action="store_true", help="on the CPU: also torch.compile (a minute a variant)")
    parser.add_argument("--long-steps", type=int, default=50, help="on a GPU: of lorad's last run")
    parser.add_argument("--peer-limit", type=float, default=300, help="on a GPU: seconds for all of the peer's variants")
    parser.add_argument("--peer-variants", type=listed, help="on a GPU: names of the peer's variants; default: all")
    parser.add_argument("--square", type=float, default=2, help="on a GPU: seconds of PyTorch's own square product")
    parser.add_argument("--peer-device", choices=["cpu", "cuda"], help="default: --device; to try this without a GPU")
    parser.add_argument("--tests", type=pathlib.Path, help="folder of make_model; default: tests beside lorad")
    parser.add_argument("--json", type=pathlib.Path)
    a = parser.parse_args()
    if a.steps <= WARMUP:
        parser.error(f"--steps must be more than the {WARMUP} steps of warm-up")
    results = []
    for shape in a.shapes:
        for cutoff in map(int, a.cutoffs):
            length = a.row_tokens or (cutoff if a.device == "cuda" else 256)
            make = (a.tests or a.lorad.parent / "tests") / "make_model"
            subprocess.run([make, shape, a.work / shape, "--rows", str(a.rows), "--row-tokens", str(length),
                            "--threads", str(len(a.cores))], check=True)
            for dtype in a.dtypes:
                for mask in a.masks:
                    results.append(compare(a, dict(shape=shape, dtype=dtype, cutoff=cutoff, mask=mask,
                                                   row_tokens=length)))
    print("\n## lorad / fastest stock peer\n")
    print("| shape | type | packed | supervised | lorad tokens/s | peer tokens/s | speed | memory | loss, norm differ by |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        print(f"| {r['shape']} | {r['dtype']} | {r['cutoff']} | {r['mask']} | {r['lorad']['rate']:.0f} | "
              f"{r['peer']['rate']:.0f} ({r['peer_variant']}) | {r['speed']:.2f} x | {r['memory']:.2f} x | "
              f"{r['loss_difference']:.0e}, {r['norm_difference']:.0e} |")
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
