"""Compares tokenizer.model folders and Unigram tokenizer.json files with Hugging Face on many mutated strings, and their speed on
one thread.

    python3 compare_sentencepiece.py BUILD/tests/tokenize_lines MODEL_DIR... [-n STRINGS] [--seed S] [--speed] [--segmenter]

A folder with tokenizer.json is opened with tokenizers, one with tokenizer.model with transformers' LlamaTokenizerFast. Exits 1
when any token number, plain token number or decoded text differs. --segmenter counts instead how many of the strings SentencePiece's own
library segments otherwise than Hugging Face does, and shows some. (tokenizers 0.22.2, transformers 4.56.2, sentencepiece 0.2.3)
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import compare_tokenizers  # noqa: E402
from tokenizer_strings import strings  # noqa: E402

CHUNK = 20000


def open_reference(model):
    from tokenizers import Tokenizer

    if (Path(model) / "tokenizer.json").exists():
        return Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    from transformers import LlamaTokenizerFast

    return LlamaTokenizerFast.from_pretrained(model)._tokenizer


def lines(program, model, mode, values):
    text = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
    done = subprocess.run([program, model, mode], input=text.encode(), capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return done.stdout.decode().split("\n")[:-1]


class Comparison:
    def __init__(self, program, model):
        self.program, self.model, self.reference = program, model, open_reference(model)
        self.specials = [t.content for t in self.reference.get_added_tokens_decoder().values()]
        self.pieces = [p for p in self.reference.get_vocab() if not p.startswith("<0x")]
        self.strings = self.decoded = self.different = 0

    def report(self, *what):
        self.different += 1
        if self.different < 6:
            print(*what)

    def encode(self, mode, texts):
        got = lines(self.program, self.model, mode, texts)
        assert len(got) == len(texts)
        self.reference.encode_special_tokens = mode == "plain"
        expected = [e.ids for e in self.reference.encode_batch_fast(texts, add_special_tokens=mode == "encode")]
        for text, line, ids in zip(texts, got, expected):
            if line != " ".join(map(str, ids)):
                self.report(mode, repr(text), "\n got     ", line, "\n expected", ids)
        return expected

    def chunk(self, seed, n):
        rnd = random.Random(seed)
        texts = strings(seed, n, self.specials, longest=160)
        for i in range(0, n, 4):  # texts made of the model's own pieces, where ties and odd merges are
            pieces = rnd.choices(self.pieces, k=rnd.randrange(1, 12))
            if rnd.random() < 0.3:
                pieces = pieces[:2] * rnd.randrange(1, 8)
            texts[i] = "".join(pieces).replace("▁", rnd.choice(" ▁  ")).replace("\0", "")
        kept = self.encode("encode", texts)
        self.encode("plain", texts)
        cases = []
        for ids in kept[: n // 4]:
            begin = rnd.randrange(len(ids)) if ids and rnd.random() < 0.5 else 0
            cases.append(ids[begin : begin + rnd.randrange(1, 40)])
        size = self.reference.get_vocab_size()
        cases += [[rnd.randrange(size) for _ in range(rnd.randrange(0, 12))] for _ in range(n // 8)]
        got = lines(self.program, self.model, "decode", cases)
        assert len(got) == len(cases)
        for ids, line, expected in zip(cases, got, self.reference.decode_batch(cases, skip_special_tokens=True)):
            if json.loads(line) != expected:
                self.report("decode", ids, "\n got     ", line, "\n expected", repr(expected))
        self.strings += n
        self.decoded += len(cases)


def compare(program, model, n, seed):
    comparison = Comparison(program, model)
    for first in range(0, n, CHUNK):
        comparison.chunk(1000003 * seed + first, min(CHUNK, n - first))
    print(f"{model}: {comparison.strings} strings encoded twice, {comparison.decoded} decoded: {comparison.different} differences",
          flush=True)
    return comparison.different


def compare_segmenter(model, n, seed):
    import sentencepiece

    reference = open_reference(model)
    reference.encode_special_tokens = True
    processor = sentencepiece.SentencePieceProcessor(str(Path(model) / "tokenizer.model"))
    different = 0
    for text in strings(seed, n, longest=160):
        ours, theirs = reference.encode(text, add_special_tokens=False).ids, processor.encode(text)
        if ours != theirs:
            different += 1
            if different < 6:
                print(repr(text), "\n Hugging Face ", ours, "\n SentencePiece", theirs)
    print(f"{model}: SentencePiece itself differs from Hugging Face on {different} of {n} strings")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model", nargs="+")
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--segmenter", action="store_true")
    options = parser.parse_args()
    different = 0
    for model in options.model:
        if options.segmenter:
            compare_segmenter(model, options.n, options.seed)
        elif options.speed:
            print(model)
            compare_tokenizers.speed(options.program, model, open_reference(model))
        else:
            different += compare(options.program, model, options.n, options.seed)
    sys.exit(different != 0)


if __name__ == "__main__":
    main()
