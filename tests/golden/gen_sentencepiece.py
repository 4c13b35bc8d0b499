"""Writes tests/data/sentencepiece: SentencePiece models, and strings with the token numbers that Hugging Face gives for them.

    python3 gen_sentencepiece.py [--train]      (tokenizers 0.22.2, transformers 4.56.2, sentencepiece 0.2.3, protobuf)

For each folder NAME, NAME.jsonl holds one array a line, as in tests/data/tokenizer: [text, ids, ids without special tokens or null
when the same, decoded text or null], NAME.digests.jsonl many more strings with digests of the ids; configs.jsonl is about the files
beside tokenizer.model. mistral-v1/tokenizer.model is another work (README.md there); the small models are
trained here on the finance rows. A folder with tokenizer.json is run by tokenizers, one with tokenizer.model by LlamaTokenizerFast.
"""

import io
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaTokenizerFast

from tokenizer_strings import DATA, corpus, strings

OUT = DATA / "sentencepiece"
# Rules with clusters in and around them, for the order of Hugging Face's look-ups.
CLUSTERS = [("a\u0301", "X"), ("a", "Y"), ("fi", "\ufb01"), ("\u00e9\u0301", ""), ("\u0600b", "Z"), ("\u00a9", "copy"), ("\r\n", " "),
            ("\u4f60", "您"), ("\u4f60\u0301", "他"), ("\u3000", " "), ("\u0600", "W"), ("\t", "")]


def train(kind, size, rules="identity", **more):
    out = io.BytesIO()
    table = OUT / "rules.tsv"
    if isinstance(rules, list):
        lines = ("\t".join(" ".join("%04X" % ord(c) for c in part) for part in rule) + "\n" for rule in rules)
        table.write_text("".join(lines))
        more["normalization_rule_tsv"] = str(table)
    else:
        more["normalization_rule_name"] = rules
    rows = (line for text in corpus() for line in text.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=rows, model_writer=out, model_type=kind, vocab_size=size, character_coverage=0.98, num_threads=1,
        minloglevel=2, **more)
    table.unlink(missing_ok=True)
    return out.getvalue()


def config(name, **values):
    values.setdefault("tokenizer_class", "LlamaTokenizer")
    write_json(name, "tokenizer_config.json", values)


def write_json(name, file, values):
    (OUT / name / file).write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def save(name, model):
    (OUT / name).mkdir(exist_ok=True)
    (OUT / name / "tokenizer.model").write_bytes(model)


def added(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False, **flags}


def saved(content, **flags):
    return {"__type": "AddedToken", **added(content, **flags)}


def scores_as_float32(model):
    """The vocabulary and the charsmap as transformers' converters read them."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    return [(p.piece, p.score) for p in proto.pieces], proto.normalizer_spec.precompiled_charsmap, proto.trainer_spec.unk_id


def save_json(name, tokenizer):
    (OUT / name).mkdir(exist_ok=True)
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (OUT / name / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def like_t5(model, scheme, byte_fallback=False):
    """What SpmConverter makes."""
    vocab, charsmap, unk = scores_as_float32(model)
    t = Tokenizer(models.Unigram(vocab, unk, byte_fallback))
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    t.normalizer = normalizers.Sequence(steps + [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    t.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


def make_all():
    OUT.mkdir(exist_ok=True)
    symbols = ["<sep>", "▁<tab>", "公司", "EBITDA"]

    save("bpe-bytes", train("bpe", 2000, byte_fallback=True, user_defined_symbols=symbols, control_symbols=["<ctl>"]))
    config("bpe-bytes", legacy=False, add_eos_token=True, added_tokens_decoder={
        "0": added("<unk>", special=True), "1": added("<s>", special=True), "2": added("</s>", special=True),
        "2000": added("[INST]", special=True, lstrip=True), "2001": added("上市※", rstrip=True, normalized=True)},
        bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    save("bpe-plain", train("bpe", 1700, CLUSTERS))
    config("bpe-plain", add_bos_token=False, pad_token="<pad>", additional_special_tokens=["<x>"])
    write_json("bpe-plain", "special_tokens_map.json", {
        "bos_token": {"content": "<s>", "lstrip": True, "normalized": True, "rstrip": False, "single_word": False},
        "additional_special_tokens": ["<y>"]})
    write_json("bpe-plain", "added_tokens.json", {"<pad>": 1701, "股东※": 1700})

    save("unigram-bytes", train("unigram", 2000, byte_fallback=True, user_defined_symbols=symbols))

    save("unigram-plain", train("unigram", 1700, CLUSTERS, split_by_whitespace=False))
    config("unigram-plain", legacy=False, add_prefix_space=False)

    save_json("unigram-nfkc", like_t5(train("unigram", 1800, "nmt_nfkc"), "always"))
    save_json("unigram-clusters", like_t5(train("unigram", 2000, CLUSTERS, byte_fallback=True), "first", byte_fallback=True))


def reference(name):
    if (OUT / name / "tokenizer.json").exists():
        return Tokenizer.from_file(str(OUT / name / "tokenizer.json"))
    return LlamaTokenizerFast.from_pretrained(str(OUT / name))._tokenizer


def write(name, n, seed, longest):
    t = reference(name)
    rnd = random.Random(seed)
    specials = [a.content for a in t.get_added_tokens_decoder().values()]
    pieces = [p for p in t.get_vocab() if not p.startswith("<0x")]
    rows = strings(seed, n, sorted(specials), longest)
    for i in range(3, n, 5):
        rows[i] = "".join(rnd.choices(sorted(pieces), k=rnd.randrange(1, 9))).replace("▁", rnd.choice(" ▁"))
    if name == "unigram-clusters":
        rows += clusters()
    with open(OUT / (name + ".jsonl"), "w", encoding="utf-8") as out:
        for i, text in enumerate(rows):
            t.encode_special_tokens = False
            ids = t.encode(text).ids
            t.encode_special_tokens = True
            plain = t.encode(text, add_special_tokens=False).ids
            decoded = t.decode(ids[len(ids) // 3 :] if i % 8 else ids, skip_special_tokens=True) if i % 4 == 0 else None
            row = [text, ids, None if plain == ids else plain, decoded]
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


SEP = "number of <sep>"  # which differs from model to model
# tokenizer_config.json, special_tokens_map.json, added_tokens.json
CONFIGS = [
    (dict(bos_token=saved("<s>", normalized=True, lstrip=True)), None, None),
    (dict(added_tokens_decoder={"1": added("<s>", special=True, normalized=True, rstrip=True), SEP: added("<sep>", special=True,
     normalized=True), "0": added("<unk>", special=True)}), None, None),
    (dict(), {"bos_token": "</s>", "eos_token": "<s>", "pad_token": "公司", "sep_token": "<new>"}, None),
    (dict(legacy=False), {"bos_token": added("<s>", normalized=True), "unk_token": added("<unk>", normalized=True, rstrip=True),
     "additional_special_tokens": [added("EBITDA", lstrip=True), "<q>"]}, {"<q>": 2000, "<z>": 2001}),
    (dict(sep_token="<s>", cls_token=saved("<sep>", rstrip=True), mask_token="<sep>", additional_special_tokens=["<q1>", saved("<q1>",
     lstrip=True), saved("<sep>"), saved("<q2>", lstrip=True), "<q2>"]), None, None),
    (dict(additional_special_tokens=["公司", saved("<zz>", lstrip=True), "<yy>"], legacy=False), None, None),
    (dict(add_prefix_space=False), None, None),
    (dict(add_prefix_space=None, legacy=None), None, None),
    (dict(add_prefix_space=None, legacy=False), None, None),
    (dict(add_prefix_space=True, legacy=False, add_eos_token=True), None, None),
    (dict(unk_token="<sep>", pad_token="</s>", sep_token="<sep2>", cls_token="<sep>", mask_token=saved("<mask>", lstrip=True,
     normalized=True)), None, None),
    (dict(bos_token="<bos>", add_eos_token=True), None, None),
    (dict(pad_token="<pad>", added_tokens_decoder={"2000": added("<pad>", normalized=True), "2001": added("股 东", normalized=True,
     single_word=True)}), None, None),
    (dict(additional_special_tokens=["<pad>", "</s>", saved("<s>", lstrip=True)], added_tokens_decoder={"2000": added("<pad>",
     lstrip=True), "2": added("</s>", special=True)}), None, None),
    (dict(added_tokens_decoder={"2000": added("<pad>", lstrip=True)}), {"bos_token": "<nope>"}, {"<zzz>": 2005}),
    (dict(added_tokens_decoder={}), {"bos_token": "<nope>"}, {"<zzz>": 2005}),
    (dict(bos_token="</s>", pad_token="<p1>"), {"bos_token": "<s>", "pad_token": added("<p2>", rstrip=True)}, None),
    (dict(bos_token=None, add_bos_token=False), None, None),
    (dict(add_bos_token=None), None, None),
]


def write_configs():
    """What the files beside tokenizer.model decide: one configuration a line, with some strings and their ids."""
    files = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    texts = ["", "a", " a  b ", "<s>", "a <s> b</s> <s>c", "<unk> x<sep> y", " <pad> <q> 公司 EBITDA<mask> z", "EBITDAa  EBITDA",
             "é😀<0x41>",
             "股 东 <zz>, 股 东x", " <q1> <q2>  <zz> ", "\u3000<s>\u3000<sep>\t</s>\n<z> <bos> <p1> <p2> ", "▁<s>▁<sep>▁▁",
             "<new><sep2><tab> <tab>"]
    with open(OUT / "configs.jsonl", "w", encoding="utf-8") as out, tempfile.TemporaryDirectory() as folder:
        for model in ("bpe-bytes", "unigram-bytes"):
            shutil.copy(OUT / model / "tokenizer.model", folder)
            processor = sentencepiece.SentencePieceProcessor(str(OUT / model / "tokenizer.model"))
            sep = str(processor.piece_to_id("<sep>"))
            for values in CONFIGS:
                for file, value in zip(files, values):
                    path = Path(folder) / file
                    path.unlink(missing_ok=True)
                    if value is not None:
                        path.write_text(json.dumps(value).replace(SEP, sep))
                t = LlamaTokenizerFast.from_pretrained(folder)._tokenizer
                cases = []
                for text in texts:
                    t.encode_special_tokens = False
                    case = [text, t.encode(text).ids]
                    t.encode_special_tokens = True
                    cases.append(case + [t.encode(text, add_special_tokens=False).ids])
                row = json.dumps([model, dict(zip(files, values)), cases], ensure_ascii=False, separators=(",", ":"))
                out.write(row.replace(SEP, sep) + "\n")


def clusters():
    """Around the characters in which versions of Unicode differ, and some others."""
    odd = [0x897, 0x10D69, 0x10D6D, 0x10EFC, 0x113B8, 0x113C2, 0x113C5, 0x113CA, 0x113D0, 0x113D2, 0x113E1, 0x11F5A, 0x1611E, 0x1612F,
           0x1E5EE, 0x2065, 0xFFF0, 0xFFF8, 0x1F02C, 0x1F0FF, 0x1F1AE, 0x1F1E5, 0x1F203, 0x1F2FF, 0x1F6D8, 0x1F7F1, 0x1F8B2, 0x1FA54,
           0x1FAFF, 0x1FC00, 0x1FFFD, 0x300, 0x36F, 0x483, 0x5BF, 0x600, 0x605, 0x6DD, 0x903, 0x93E, 0x1100, 0x1161, 0x200B, 0x200C,
           0x200D, 0x20E3, 0x302A, 0x3099, 0xFE0F, 0xFF9E, 0x110BD, 0x1F1E6, 0x1F3FB, 0x1F600, 0xE0020, 0xE0100, 0xAD, 0xA9, 0x0D, 0x0A]
    frames = ("a%s", "你%s", "%sa", "a%sa", "\u0600%sb", "\u00a9\u200d%s", "\u00e9%s\u0301")
    return [frame % chr(c) for frame in frames for c in odd]


def digest(ids):
    """FNV-1a of the numbers as decimal text, a space before each."""
    value = 0xCBF29CE484222325
    for byte in "".join(" %d" % i for i in ids).encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return "%016x" % value


def write_digests(name, n, seed):
    """Many strings: [text, digest of its ids, digest of its ids without special tokens]."""
    t = reference(name)
    rows = strings(seed, n, ["<s>", "</s>", "<unk>"], 60)
    with open(OUT / (name + ".digests.jsonl"), "w", encoding="utf-8") as out:
        for text in rows:
            t.encode_special_tokens = False
            ids = t.encode(text).ids
            t.encode_special_tokens = True
            row = [text, digest(ids), digest(t.encode(text, add_special_tokens=False).ids)]
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    if "--train" in sys.argv or not OUT.exists():
        make_all()
    for i, folder in enumerate(sorted(p for p in OUT.iterdir() if p.is_dir())):
        write(folder.name, 500, 30 + i, 40)
    write_digests("mistral-v1", 10000, 29)
    write_configs()


if __name__ == "__main__":
    main()
