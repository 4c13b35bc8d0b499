"""Writes tests/data/tokenizer: strings with the token numbers that Hugging Face tokenizers gives them.

    python3 gen_tokenizer.py                       (tokenizers 0.22.2)
    python3 gen_tokenizer.py --vectors FOLDER      qwen2-vectors, of llama.cpp's cases and Qwen2.5's vocabulary in FOLDER

For each tokenizer NAME.jsonl holds one array a line: [text, ids, ids without special tokens, decoded text], the last one
only for every fourth row (null otherwise). The third is null where it equals the second. The two models under
tests/data/models are used as they are; the small ones, trained here on the finance rows, cover the other components and
are written to tests/data/tokenizer/NAME/tokenizer.json.
"""

import json
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_strings import DATA, corpus, strings

assert tokenizers.__version__ == "0.22.2", tokenizers.__version__
OUT = DATA / "tokenizer"
SPLIT = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
         "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def split(digits, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(SPLIT % digits), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def train(tokenizer, size, specials, alphabet, characters=1000):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet,
                                  limit_alphabet=characters, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([split(""), byte_level()])
    t.decoder = decoders.ByteLevel()
    train(t, 700, [], ALPHABET)
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("é́", normalized=True)])
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([split("{1,3}", "removed", True), byte_level()])
    t.decoder = decoders.ByteLevel()
    train(t, 700, ["<|begin_of_text|>", "<|eot_id|>"], ALPHABET)
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])])
    return t


def mistral():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    train(t, 1400, ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)], ["▁"], 600)
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    t.add_special_tokens([AddedToken("[INST]", normalized=False, lstrip=True), AddedToken("[/INST]", normalized=False, rstrip=True)])
    t.add_tokens([AddedToken("公司", single_word=True, normalized=False), AddedToken("IT", single_word=True, normalized=True)])
    saved = json.loads(t.to_str())  # the byte tokens belong to the model, not to the added ones
    saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(saved))


def metaspace():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    train(t, 1200, ["<unk>"], ["▁"], 300)
    saved = json.loads(t.to_str())  # leave most Chinese characters unknown
    model = saved["model"]
    kept = [m for m in model["merges"] if all(ord(c) < 0x2600 for c in "".join(m))]
    texts = [s for s in model["vocab"] if s == "<unk>" or all(ord(c) < 0x2600 for c in s)]
    model["vocab"] = {s: i for i, s in enumerate(texts)}
    model["merges"] = [m for m in kept if "".join(m) in model["vocab"]]
    return Tokenizer.from_str(json.dumps(saved))


def digits():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence([normalizers.Replace("元", "圆"), normalizers.NFC()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(regex=True)])
    t.decoder = decoders.ByteLevel()
    train(t, 500, ["<eos>"], ALPHABET)
    return t


def prefix():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = byte_level(prefix=True, regex=True)
    train(t, 400, ["<eos>"], ALPHABET)
    return t


def regexes():
    """DeepSeek's chain of patterns, and every behavior."""
    t = Tokenizer(models.BPE())
    chain = [pre_tokenizers.Split(Regex("[\r\n]"), "isolated"), pre_tokenizers.Split(Regex("\\s?\\p{L}+"), "isolated"),
             pre_tokenizers.Split(Regex("\\s?\\p{P}+"), "contiguous"), pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "merged_with_previous"),
             pre_tokenizers.Split(Regex("[^\\w\\s]+?|[[a-c]x-z]{,2}"), "merged_with_next"), pre_tokenizers.Split(" ", "merged_with_next"),
             pre_tokenizers.Split(Regex("\\p{Han}{1,3}+|\\d\\d|\\p{Nl}|(?<=k)\\S(?!z)|^#+|;$"), "isolated"),
             pre_tokenizers.Digits(individual_digits=True)]
    t.pre_tokenizer = pre_tokenizers.Sequence(chain + [byte_level()])
    t.decoder = decoders.ByteLevel()
    train(t, 600, ["<eos>"], ALPHABET)
    return t


def o200k():
    """GPT-4o's pattern, with ignore_merges."""
    cased = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]%s[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]%s(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    pattern = "|".join(["[^\\r\\n\\p{L}\\p{N}]?" + cased % ("*", "+"), "[^\\r\\n\\p{L}\\p{N}]?" + cased % ("+", "*"), "\\p{N}{1,3}",
                        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*", "\\s*[\\r\\n]+", "\\s+(?!\\S)", "\\s+"])
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level()])
    t.decoder = decoders.ByteLevel()
    train(t, 700, ["<|endoftext|>"], ALPHABET)
    return t


def normal():
    """The other normal forms and pre-tokenizers, with an unknown token."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Strip(left=False), normalizers.NFKD(), normalizers.Lowercase(),
                                         normalizers.Replace(Regex("[\\x{300}-\\x{36f}]+|\\s{2,}"), "_"), normalizers.NFKC(),
                                         normalizers.Prepend("·")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"),
                                               pre_tokenizers.CharDelimiterSplit("的"), pre_tokenizers.Metaspace("▁", "always", False)])
    t.decoder = decoders.Sequence([decoders.Replace("▁▁", "▁"), decoders.Metaspace("▁", "first", False), decoders.Strip("·", 1, 0)])
    train(t, 900, ["<unk>"], [], 500)
    return t


def spaces():
    """Whitespace behind NFD; RobertaProcessing's ends."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.NFD()
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    train(t, 900, ["<unk>", "<s>", "</s>"], [], 500)
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return t


SMALL = (qwen2, llama3, mistral, metaspace, digits, prefix, regexes, o200k, normal, spaces)


def write(name, tokenizer, n, seed):
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    rows = strings(seed, n, specials)
    with open(OUT / (name + ".jsonl"), "w", encoding="utf-8") as out:
        for i, text in enumerate(rows):
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(text).ids
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            decoded = tokenizer.decode(ids[len(ids) // 3 :] if i % 8 else ids, skip_special_tokens=True) if i % 4 == 0 else None
            row = [text, ids, None if plain == ids else plain, decoded]
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def fnv(ids):
    """FNV-1a of the numbers, four bytes each, the low ones first."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def write_many():
    """many.jsonl: 10,000 strings; NAME.many: a line each, the hash of their numbers by that tokenizer."""
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]"]
    rows = strings(99, 10000, specials, longest=70)
    (OUT / "many.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in rows), encoding="utf-8")
    folders = [DATA / "models" / name for name in ("fin-zh-tiny", "tinystories-656k")] + [OUT / make.__name__ for make in SMALL]
    for folder in folders:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        lines = ["%08x\n" % (fnv(e.ids) >> 32) for e in tokenizer.encode_batch(rows)]
        (OUT / (folder.name + ".many")).write_text("".join(lines))


def vectors(source):
    """llama.cpp's cases for Qwen2 and as much of Qwen2.5's vocabulary as can take part in them."""
    folder = OUT / "qwen2-vectors"
    folder.mkdir(exist_ok=True)
    cases = open(source + "/vectors/ggml-vocab-qwen2.gguf.inp", encoding="utf-8").read().split("\n__ggml_vocab_test__\n")
    answers = open(source + "/vectors/ggml-vocab-qwen2.gguf.out").read().split("\n")
    vocab = json.load(open(source + "/tokenizers/qwen2.5/vocab.json", encoding="utf-8"))
    merges = [line.split(" ") for line in open(source + "/tokenizers/qwen2.5/merges.txt", encoding="utf-8").read().split("\n") if line and not line.startswith("#version")]
    letters = byte_letters()
    text = "\n".join("".join(letters[b] for b in normalizers.NFC().normalize_str(c).encode()) for c in cases)
    merges = [m for m in merges if "".join(m) in text]
    used = set(letters.values()) | {p for m in merges for p in (*m, "".join(m))}
    kept = {t: i for t, i in vocab.items() if t in used}
    (folder / "vocab.json").write_text(json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges), encoding="utf-8")
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": None, "unk_token": None, "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    rows = [[c, [int(i) for i in a.split()]] for c, a in zip(cases, answers)]
    (OUT / "qwen2-vectors.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows), encoding="utf-8")


def byte_letters():
    """Byte -> character of GPT-2's alphabet."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def main():
    OUT.mkdir(exist_ok=True)
    if len(sys.argv) > 2 and sys.argv[1] == "--vectors":
        vectors(sys.argv[2])
        return
    for i, name in enumerate(("fin-zh-tiny", "tinystories-656k")):
        write(name, Tokenizer.from_file(str(DATA / "models" / name / "tokenizer.json")), 2200, i)
    for i, make in enumerate(SMALL):
        folder = OUT / make.__name__
        if "--train" in sys.argv or not folder.exists():
            folder.mkdir(exist_ok=True)
            saved = json.loads(make().to_str())
            text = json.dumps(saved, ensure_ascii=False, separators=(",", ":"))
            (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        write(make.__name__, Tokenizer.from_file(str(folder / "tokenizer.json")), 400, 10 + i)
    write_many()


if __name__ == "__main__":
    main()
