"""lorad's tokenizer beside Hugging Face tokenizers: one thread, the same text, one after the other, processor time.

    python3 run_tokenizer.py BUILD/tests/bench_tokenizer MODEL_DIR... [--text NAME=STRINGS.jsonl ...]

STRINGS: one JSON string a line; without --text, the Chinese finance rows and the English pages of this repository. Of the library
the fastest of its calls counts (encode in a loop, encode_batch, encode_batch_fast), the best of three rounds. (tokenizers 0.22.2)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))

from compare_tokenizers import open_reference  # noqa: E402


def default_texts():
    rows = []
    for path in sorted((ROOT / "tests/data/finance-zh").glob("fin_*.jsonl")):
        for line in open(path, encoding="utf-8"):
            rows += [m["content"] for m in json.loads(line)["messages"]]
    pages = "".join(p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/**/*.md")) if not p.name.endswith(".zh.md"))
    return {"Chinese": rows, "English": [p for p in pages.split("\n\n") if p]}


def best(call, rounds=3):
    least = 1e9
    for _ in range(rounds):
        begin = time.process_time()
        call()
        least = min(least, time.process_time() - begin)
    return least


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", action="append", default=[])
    options = parser.parse_args()
    sets = {}
    for item in options.text:
        name, path = item.split("=", 1)
        sets[name] = [json.loads(line) for line in open(path, encoding="utf-8")]
    for model in options.models:
        reference = open_reference(model)
        for name, texts in (sets or default_texts()).items():
            calls = {
                "encode": lambda: [reference.encode(t) for t in texts],
                "encode_batch": lambda: reference.encode_batch(texts),
                "encode_batch_fast": lambda: reference.encode_batch_fast(texts),
            }
            stdin = "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts).encode()
            ours = json.loads(subprocess.run([options.program, model], input=stdin, capture_output=True, check=True).stdout)
            theirs = {call: best(run) for call, run in calls.items()}
            call = min(theirs, key=theirs.get)
            size = ours["bytes"] / 1e6
            print(f"{Path(model).name:14} {name:8} {size:5.2f} MB  lorad {size / ours['seconds']:6.1f} MB/s  tokenizers "
                  f"{size / theirs[call]:5.1f} MB/s ({call})  {theirs[call] / ours['seconds']:5.1f}x  ready in {ours['open_ms']:.0f} ms, "
                  f"{ours['mib']:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
