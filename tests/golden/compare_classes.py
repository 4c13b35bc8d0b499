"""Compares character classes and normal forms with Hugging Face's, over every character of Unicode.

    python3 compare_classes.py BUILD/tests/tokenize_lines          (tokenizers 0.22.2)

Each class is a pattern that removes its characters in front of a byte-level tokenizer without merges, so that the numbers say which
characters are in it. Exits 1 when one differs.
"""

import json
import os
import subprocess
import sys
import tempfile

os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CHARACTERS = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
TEXTS = ["".join(CHARACTERS[i : i + 3000]) for i in range(0, len(CHARACTERS), 3000)]
PROPERTIES = ("L Lu Ll Lt Lm Lo M Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp Cc Cf Han Hiragana Katakana Hangul Bopomofo "
              "Latin Cyrillic Greek Arabic Hebrew Thai Devanagari").split()
PATTERNS = [r"\p{%s}" % p for p in PROPERTIES] + [r"\P{L}", r"\P{N}", r"\P{Han}", r"[^\p{L}]", r"[^\p{P}]", r"[^\p{Latin}]"]
PATTERNS += [r"\s", r"\S", r"\d", r"\D", r"\w", r"\W", r"\h", r"\v", ".", r"[\s\d]", r"[\w]", r"[^\w]", r"[^\s\w]", r"[\S]", "(?i:s)", "(?i:k)",
             "(?i:[a-z])", r"[\x{300}-\x{36f}]", "(?i)x"]


def byte_level(before=None, normalizer=None):
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(ALPHABET)}, merges=[]))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    t.pre_tokenizer = pre_tokenizers.Sequence(([before] if before else []) + steps)
    if normalizer:
        t.normalizer = normalizer
    return t


def whitespace():
    """Unknown characters fuse inside a word, not across two."""
    t = Tokenizer(models.BPE(vocab={"<unk>": 0}, merges=[], unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    return t


def differs(program, name, tokenizer, texts):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder + "/tokenizer.json")
        lines = "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts).encode()
        done = subprocess.run([program, folder, "encode"], input=lines, capture_output=True)
    got = done.stdout.decode().split("\n")[:-1]
    expected = [" ".join(map(str, e.ids)) for e in tokenizer.encode_batch_fast(texts)]
    if got != expected:
        print(name, "differs", done.stderr.decode())
    return got != expected


def main():
    cases = [(p, byte_level(pre_tokenizers.Split(Regex(p), "removed")), TEXTS) for p in PATTERNS]
    cases += [("Punctuation", byte_level(pre_tokenizers.Punctuation("removed")), TEXTS)]
    cases += [(p.__name__, byte_level(p()), TEXTS) for p in (pre_tokenizers.WhitespaceSplit, pre_tokenizers.BertPreTokenizer)]
    for form in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD, normalizers.Lowercase, normalizers.Strip):
        cases.append((form.__name__, byte_level(normalizer=form()), TEXTS))
    cases.append(("Whitespace", whitespace(), ["\u4e00" + c + "\u4e00" for c in CHARACTERS]))
    wrong = sum(differs(sys.argv[1], *case) for case in cases)
    print(f"{len(cases)} classes and forms over {len(CHARACTERS)} characters: {wrong} differ")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
