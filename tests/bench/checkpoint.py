#!/usr/bin/env python3
"""What a checkpoint every step costs: the same steps without and with, in turn.

    tests/bench/checkpoint.py --lorad build/lorad --config FILE [--threads N] [--steps S] [--rounds R] [--out DIR] [--set K=V]...

Prints, for each way, the mean time of a step, the time that training waited for checkpoints (which is in it, and once more
added to it, since the part at the end of a step is not), the processor time of the whole process, and the difference.
Then what the threads that save used for one checkpoint, as the kernel counts it for each: processor time, time they wanted
a processor and had none, turns on one, bytes and calls of read and write, bytes that went to the disk. A second run of the
same steps gives the same bytes and calls whatever else the machine does. Steps before the third are left out. A short run
before warms the caches.
"""
import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

THREADS = ("save copier", "save writer")


class Watch(threading.Thread):
    """The counters of the threads that save, followed until the process ends."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.folder, self.last = f"/proc/{pid}/task", {}

    def look(self):
        for thread in os.listdir(self.folder):
            read = lambda name: open(f"{self.folder}/{thread}/{name}", encoding="ascii").read()
            name = read("comm").strip()
            if name not in THREADS:
                continue
            ran, waited, turns = map(int, read("schedstat").split())
            counts = {"cpu_ms": ran / 1e6, "starved_ms": waited / 1e6, "turns": turns}
            counts.update((k, int(v)) for k, v in re.findall(r"(\w+): (\d+)", read("io")))
            self.last[name] = counts

    def run(self):
        while True:
            try:
                self.look()
            except (OSError, ValueError):
                if not os.path.exists(self.folder):
                    return
            time.sleep(0.02)


def run(args, out, saves, steps):
    shutil.rmtree(out, ignore_errors=True)
    command = [args.lorad, "--config", args.config]
    settings = {
        "output_dir": out, "cache_dir": out + ".cache", "max_steps": steps, "logging_steps": 1, "report_to": "none",
        "progress": "lines", "eval_strategy": "no", "load_best_model_at_end": "false", "save_total_limit": 2,
        "save_strategy": "steps" if saves else "no", "save_steps": 1 if saves else 1000000,
    }
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    for setting in args.set:
        command += ["--set", setting]
    env = dict(os.environ)
    if args.threads:
        env["OMP_NUM_THREADS"] = str(args.threads)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    watch.start()
    _, errors = process.communicate()
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(errors)
    with open(os.path.join(out, "logs", "metrics.jsonl"), encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines][2:]
    seconds = [float(t) for t in re.findall(r"committed in ([0-9.]+) s", errors)]
    if saves and len(seconds) != steps:
        sys.exit(f"{len(seconds)} checkpoints of {steps} steps")
    return {
        "step": statistics.mean(s["step_seconds"] + s["save_stall_seconds"] for s in records),
        "stalls": [s["save_stall_seconds"] for s in records],
        "rate": sum(s["tokens"] for s in records) / sum(s["step_seconds"] + s["save_stall_seconds"] for s in records),
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall": wall,
        "commit": statistics.median(seconds) if saves else 0,
        "last": records[-1]["loss"],
        "threads": {name: {k: v / steps for k, v in counts.items()} for name, counts in watch.last.items()},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lorad", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    base = args.out or tempfile.mkdtemp()
    os.makedirs(base, exist_ok=True)
    run(args, base + "/run", True, 3)
    rounds = [(run(args, base + "/run", False, args.steps), run(args, base + "/run", True, args.steps))
              for _ in range(args.rounds)]
    for without, with_saves in rounds:
        if without["last"] != with_saves["last"]:
            sys.exit(f"losses differ: {without['last']!r} and {with_saves['last']!r}")
    for name, index in (("without", 0), ("every step", 1)):
        ways = [pair[index] for pair in rounds]
        stalls = sorted(stall for way in ways for stall in way["stalls"])
        mid = lambda key: statistics.median(way[key] for way in ways)
        print(f"{name:11s} step {mid('step') * 1e3:8.2f} ms  {mid('rate'):8.0f} tokens/s  cpu {mid('cpu'):7.2f} s  "
              f"wall {mid('wall'):7.2f} s  stall median {stalls[len(stalls) // 2] * 1e3:.3f} ms, "
              f"p95 {stalls[len(stalls) * 95 // 100] * 1e3:.3f} ms, most {stalls[-1] * 1e3:.3f} ms  "
              f"commit {mid('commit'):.2f} s")
    for name in THREADS:
        of = lambda key: statistics.median(b["threads"].get(name, {}).get(key, 0) for _, b in rounds)
        print(f"{name}, of one checkpoint: processor {of('cpu_ms'):.1f} ms, waited for one {of('starved_ms'):.1f} ms in "
              f"{of('turns'):.0f} turns; read {of('rchar') / 1e6:.2f} MB in {of('syscr'):.0f} calls, wrote "
              f"{of('wchar') / 1e6:.2f} MB in {of('syscw'):.0f}; disk {of('write_bytes') / 1e6:.2f} MB")
    ratios = [b["rate"] / a["rate"] for a, b in rounds]
    extra = statistics.median(b["cpu"] - a["cpu"] for a, b in rounds) / args.steps
    print(f"throughput with a checkpoint every step: {statistics.median(ratios) * 100:.2f} % "
          f"(rounds: {', '.join(f'{r * 100:.2f}' for r in ratios)}); processor time of one: {extra * 1e3:.1f} ms")
    if not args.out:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
