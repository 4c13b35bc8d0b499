"""Compares conversations with what transformers makes of them, on many random ones for every family.

    python3 compare_chat_template.py BUILD/tests/chat_lines [-n CONVERSATIONS] [--seed S]

Text, token numbers, what is supervised, and prompts. A third of the messages holds what looks like special tokens; special
tokens in messages are plain text for half of the conversations and match for the others. Exits 1 when anything differs.
(the packages of gen_chat_template.py)
"""

import argparse
import json
import random
import subprocess
import sys

import gen_chat_template as gen
from gen_chat_template import DATA, PreTrainedTokenizerFast, package_file
from tokenizer_strings import strings

MARKS = ["<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "</s>", "<s>", "[INST]", "[/INST]", "<think>", "</think>", "<think>\n\n</think>\n\n",
         "<tool_response>", "</tool_response>", "<|start_header_id|>", "[SYSTEM_PROMPT]", "\n\n", "\n", "### Response:\n", "<<SYS>>"]
LLAMA3_TURN = r"assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"
HIDE_QWEN3 = r"<(?=\|)"


def families():
    text = lambda name: json.loads((DATA / "chat_template" / name / "tokenizer_config.json").read_text())["chat_template"]
    qwen25 = (DATA / "chat_template/qwen2.5/chat_template.jinja").read_text()
    chatml = lambda text, **more: {"text": text, "turn": gen.TURN_CHATML, **more}
    inst = lambda text, **more: {"text": text, "turn": gen.TURN_INST, **more}
    yield "chat_template/qwen2", None, chatml(gen.QWEN2)
    yield "chat_template/qwen2.5", None, chatml(qwen25)
    yield "chat_template/qwen3", None, chatml(text("qwen3"), hide=HIDE_QWEN3)
    yield "chat_template/qwen3", "qwen3_nonthinking", chatml(text("qwen3"), hide=HIDE_QWEN3, kwargs={"enable_thinking": False})
    yield "chat_template/qwen3-2507", None, chatml(text("qwen3-2507"))
    yield "chat_template/llama2", None, inst(gen.LLAMA2)
    yield "chat_template/llama3", None, {"text": gen.LLAMA3, "turn": LLAMA3_TURN}
    for name in ("llama3_1", "llama3_2"):
        yield ("chat_template/llama3", name.replace("_", "."),
               {"text": package_file("trl", "chat_templates/%s.jinja" % name), "turn": LLAMA3_TURN, "kwargs": {"date_string": "26 Jul 2024"}})
    yield "chat_template/mistral_v1", None, inst(text("mistral_v1"))
    yield "chat_template/mistral_nemo", None, inst(text("mistral_nemo"))
    yield "chat_template/mistral_v7", None, inst(text("mistral_v7"))


def conversation(rnd, texts):
    message = lambda: "".join(rnd.choice(MARKS) if rnd.random() < 0.3 else rnd.choice(texts) for _ in range(rnd.choice((0, 1, 1, 2, 4))))
    out = [{"role": "system", "content": message()}] if rnd.random() < 0.5 else []
    for _ in range(rnd.choice((1, 1, 2, 3))):
        out += [{"role": "user", "content": message()}, {"role": "assistant", "content": message()}]
    return out


def expected(tokenizer, messages, kind, split):
    """What gen_chat_template.row says; None where the template refuses or hidden marks change what it writes."""
    try:
        row = gen.row(tokenizer, messages, kind, [], True)
    except (AssertionError, gen.TemplateError):
        return None
    return row["text"], row["ids" if split else "loose"] if split or "loose" in row else row["ids"], row["mask"] if split or "loose" not in row else row["loose_mask"], row["prompt"]


def compare(program, folder, name, kind, n, seed):
    rnd = random.Random(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(DATA / folder))
    texts = [t for t in strings(seed, 3000, [], longest=80)]
    rows, requests = [], []
    while len(rows) < n:
        messages, split = conversation(rnd, texts), rnd.random() < 0.5
        want = expected(tokenizer, messages, kind, split)
        if want is None:
            continue
        rows.append((messages, split, want))
        requests.append({"messages": messages, "split": split})
        requests.append({"messages": messages[:-1], "prompt": True})
    done = subprocess.run([program, str(DATA / folder)] + ([name] if name else []), capture_output=True,
                          input="".join(json.dumps(r, ensure_ascii=False) + "\n" for r in requests).encode())
    lines = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert len(lines) == len(requests), done.stderr.decode()
    different = 0
    for (messages, split, (text, ids, mask, prompt)), got, opening in zip(rows, lines[::2], lines[1::2]):
        if (got.get("text"), got.get("ids"), got.get("mask"), opening.get("ids")) != (text, ids, mask, prompt):
            different += 1
            if different < 4:
                print(folder, name, split, json.dumps(messages, ensure_ascii=False), got, (text, ids, mask, prompt), opening, sep="\n  ")
    print("%-30s %-18s %6d conversations, %d different" % (folder, name or "auto", n, different))
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sys.exit(any([compare(args.program, *family, args.n, args.seed) for family in families()]))


if __name__ == "__main__":
    main()
