"""Compares the tokenizer with Hugging Face's on many mutated strings, and their speed on one thread (in processor time, so that a
busy machine matters little).

    python3 compare_tokenizers.py BUILD/tests/tokenize_lines MODEL_DIR [-n STRINGS] [--seed S] [--speed]

Exits 1 when any token number, plain token number or decoded text differs. (tokenizers 0.22.2, transformers 4.56.2)
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer  # noqa: E402

from tokenizer_strings import DATA, ENGLISH, corpus, strings  # noqa: E402


def open_reference(model):
    if (Path(model) / "tokenizer.json").exists():
        return Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)._tokenizer


def run(program, model, mode, values):
    text = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
    done = subprocess.run([program, model, mode], input=text.encode(), capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    lines = done.stdout.decode().split("\n")[:-1]
    return lines


def compare_batch(program, model, reference, texts, rnd, specials):
    """Differences over one batch; prints the first ones."""
    bad = []
    kept = []
    for mode in ("encode", "plain"):
        reference.encode_special_tokens = mode == "plain"
        expected = [e.ids for e in reference.encode_batch_fast(texts, add_special_tokens=mode == "encode")]
        got = run(program, model, mode, texts)
        assert len(got) == len(texts)
        for text, line, ids in zip(texts, got, expected):
            if line != " ".join(map(str, ids)):
                bad.append((mode, text, line, ids))
        kept = expected
    cases = []
    for ids in kept[:: 4]:
        begin = rnd.randrange(len(ids)) if ids and rnd.random() < 0.5 else 0
        cases.append(ids[begin : begin + rnd.randrange(1, 60)])
    size = reference.get_vocab_size()
    cases += [[rnd.randrange(size) for _ in range(rnd.randrange(0, 12))] for _ in range(len(texts) // 8)]
    got = run(program, model, "decode", cases)
    assert len(got) == len(cases)
    for ids, line, text in zip(cases, got, reference.decode_batch(cases, skip_special_tokens=True)):
        if json.loads(line) != text:
            bad.append(("decode", ids, line, text))
    return bad, len(cases)


def compare(program, model, reference, n, seed, batch=20000):
    specials = [t.content for t in reference.get_added_tokens_decoder().values()]
    different, decoded, done = 0, 0, 0
    rnd = random.Random(seed)
    while done < n:
        size = min(batch, n - done)
        texts = strings(seed * 1000003 + done, size, specials, longest=160)
        bad, cases = compare_batch(program, model, reference, texts, rnd, specials)
        for mode, what, got, expected in bad[: max(0, 6 - different)]:
            print(mode, repr(what), "\n got     ", got, "\n expected", expected, flush=True)
        different += len(bad)
        decoded += cases
        done += size
    print(f"{model}: {n} strings encoded twice, {decoded} lists decoded: {different} differences", flush=True)
    return different


def speed(program, model, reference):
    chinese = [t for t in corpus() if t and ord(t[0]) >= 0x4E00]
    sources = ("trainer/trainer.h", "dataloader/bpe.c", "base/json.c")
    notes = "".join(open(DATA.parent.parent / n, encoding="utf-8").read() for n in ("README.md", "docs/testing.md", "LICENSE"))
    english = [notes[i : i + 800] for i in range(0, len(notes), 800)]
    text = "".join(open(DATA.parent.parent / name, encoding="utf-8").read() for name in sources)
    sets = {
        "Chinese rows": chinese,
        "English": [ENGLISH] + english,
        "source code": [text[i : i + 2000] for i in range(0, len(text), 2000)] * 4,
        "one long text": ["\n".join(chinese)],
    }
    for name, texts in sets.items():
        size = sum(len(t.encode()) for t in texts)
        best = 1e9
        reference.encode_special_tokens = False
        for _ in range(3):
            begin = time.process_time()
            for t in texts:
                reference.encode(t)
            best = min(best, time.process_time() - begin)
        batch = 1e9
        for _ in range(3):
            begin = time.process_time()
            reference.encode_batch_fast(texts)
            batch = min(batch, time.process_time() - begin)
        ours = json.loads(run(program, model, "bench", texts)[0])["seconds"]
        print(f"{name:14} {size / 1e6:6.2f} MB: lorad {size / ours / 1e6:7.1f} MB/s, tokenizers {size / best / 1e6:5.1f} MB/s (batch "
              f"{size / batch / 1e6:5.1f}): {best / ours:5.1f}x ({batch / ours:5.1f}x)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    reference = open_reference(options.model)
    if options.speed:
        speed(options.program, options.model, reference)
        return
    sys.exit(compare(options.program, options.model, reference, options.n, options.seed) != 0)


if __name__ == "__main__":
    main()
