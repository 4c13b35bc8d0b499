"""Varied strings for comparing tokenizers: real rows, mutated rows, and random characters of every kind.

Everything is a function of the seed and of the files under tests/data.
"""

import json
import random
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"

SPACES = list(" \t\n\r\u00a0\u3000\u2003\u200b\u0085\u2028\u180e\v\f\x1c\x1f") + ["  ", "   ", "\r\n", "\n\n", " \n ", "\t\t"]
ODDITIES = ["'s", "'S", "'\u017f", "'RE", "'ll", "'lL", "'Ve", "'", "'t", "\u2019s", "\u2581", "<0x0A>", "<0xE4>", "０１２", "٣", "Ⅳ", "½",
            "²", "e\u0301", "\u1100\u1161\u11a8", "가각", "か\u3099", "ﬁ", "İ", "ß", "\u0958", "\u2126", "\ufeff", "👩‍👩‍👧", "🇨🇳", "❤️", "👍🏽",
            "\u202e", "\U000e0041", "\u08d3", "\U00011938", "\ufffd", "\x7f", "\x01"]
CODE = """int main(void)
{
    printf("%d\\n", 1 << 10);   /* ok */
\treturn x->y[0] != NULL ? -1 : 0x7fULL;
}
def f(a, *, b=None) -> dict[str, int]:
    return {"k": a ** 2, 'it''s': b or 3.14e-10}  # done
SELECT name, SUM(v) FROM t WHERE d >= '2023-01-01' GROUP BY 1;
<div class="a">&nbsp;</div>  https://example.com/a?b=c&d=%E4%BD%A0
$$\\frac{\\partial L}{\\partial w} = \\sum_{i=1}^{n} x_i$$
"""
ENGLISH = """Once upon a time, there was a little girl named Lily. She didn't want to share her toys, and that's why I'll say they're hers.
"Oh no!" said Tim. "We've lost 3 dogs, 12 cats and 1,234,567 birds; it's 10:45 p.m."
Net income attributable to shareholders rose 12.5% to $3.4 billion (2019: $3.0bn), whereas EBITDA was roughly flat year-on-year.
"""


def corpus():
    texts = []
    for name in ("fin_stage1_general", "fin_stage2_company", "fin_heldout"):
        for line in open(DATA / "finance-zh" / (name + ".jsonl"), encoding="utf-8"):
            texts += [m["content"] for m in json.loads(line)["messages"]]
    texts += open(DATA / "law-zh/train/train.txt", encoding="utf-8").read().split("\n\n")
    for name in ("fin-zh-tiny", "tinystories-656k"):
        text = open(DATA / "models" / name / "README.md", encoding="utf-8").read()
        texts += [text[i : i + 300] for i in range(0, len(text), 300)]
    return texts + CODE.splitlines(True) + ENGLISH.splitlines(True) + [CODE, ENGLISH]


def character(rnd, specials):
    kind = rnd.random()
    if kind < 0.30:
        return chr(rnd.randrange(32, 127))
    if kind < 0.45:
        return chr(rnd.randrange(0x4E00, 0xA000))
    if kind < 0.55:
        return rnd.choice(SPACES)
    if kind < 0.62:
        return chr(rnd.randrange(0x300, 0x370))
    if kind < 0.70:
        return chr(rnd.randrange(0x1F300, 0x1FB00))
    if kind < 0.78:
        return chr(rnd.randrange(0xA0, 0x3000))
    if kind < 0.86:
        return rnd.choice(ODDITIES)
    if kind < 0.93 and specials:
        special = rnd.choice(specials)
        return special if rnd.random() < 0.6 else special[: rnd.randrange(1, len(special) + 1)]
    while True:
        c = rnd.randrange(1, 0x110000)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def one(rnd, texts, specials, longest):
    kind = rnd.random()
    if kind < 0.25:
        return "".join(character(rnd, specials) for _ in range(rnd.randrange(0, 40)))
    text = rnd.choice(texts)
    begin = rnd.randrange(0, max(1, len(text)))
    text = list(text[begin : begin + rnd.randrange(1, longest)])
    if kind < 0.9:
        for _ in range(rnd.randrange(0, 8)):
            at, what = rnd.randrange(0, len(text) + 1), rnd.random()
            if what < 0.5:
                text.insert(at, character(rnd, specials))
            elif what < 0.7:
                del text[at : at + rnd.randrange(1, 4)]
            elif what < 0.85:
                text[at:at] = text[at : at + rnd.randrange(1, 5)] * rnd.randrange(1, 6)
            else:
                text[at:at] = list(character(rnd, specials) * rnd.randrange(1, 30))
    if kind > 0.997:
        text *= rnd.randrange(2, 40)
    return "".join(text)


def fixed(specials):
    """Cases that must be there whatever the seed."""
    texts = ["", " ", "  ", "\n", "\n\n \n", "\t", "a", " a", "a ", "你", "你好", " 你好 ", CODE, ENGLISH, "a" * 1000, "ab" * 700,
             "哈" * 300, "0" * 400, " " * 300 + "x", "\n" * 100, "=" * 200, "é" * 100, "e\u0301" * 100, "👩‍👩‍👧" * 20]
    texts += SPACES + ODDITIES
    for special in specials:
        texts += [special, special * 2, " " + special + " ", "a" + special + "b", special[1:], special + "\n你好", "\u3000" + special + "\u3000"]
    return texts


def strings(seed, n, specials=(), longest=90):
    rnd = random.Random(seed)
    texts, out = corpus(), fixed(list(specials))[: n // 2]
    while len(out) < n:
        out.append(one(rnd, texts, list(specials), longest).replace("\0", ""))
    return out
