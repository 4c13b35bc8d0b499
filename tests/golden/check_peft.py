#!/usr/bin/env python3
"""Loads an adapter that lorad wrote into PEFT and compares logits with lorad's own.

    python3 tests/golden/check_peft.py --model DIR --adapter DIR --tool build/tests/dump_logits [--ids FILE] [--tp N]

--ids FILE   a JSON array of arrays of token ids (default: rows drawn from the vocabulary with a fixed seed)
--tool       dump_logits of the build; it writes lorad's logits of the same rows, in float32
Ends with 1 when max |difference| exceeds --tolerance (1e-4) of the largest logit, or when the adapter changes nothing.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file


def lorad_logits(arguments, adapter, ids_path, folder):
    out = pathlib.Path(folder) / "logits.safetensors"
    command = [arguments.tool, arguments.model, adapter, ids_path, out]
    if arguments.tp > 1:
        command = ["mpirun", "-np", arguments.tp, "--oversubscribe"] + command
    environment = dict(os.environ)
    if os.geteuid() == 0:
        environment |= dict(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    subprocess.run([str(c) for c in command], check=True, env=environment)
    return load_file(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", type=pathlib.Path, required=True)
    parser.add_argument("--tool", type=pathlib.Path, required=True)
    parser.add_argument("--ids", type=pathlib.Path)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, torch_dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as folder:
        ids_path = arguments.ids
        if ids_path is None:
            random = np.random.default_rng(7)
            rows = [random.integers(3, model.config.vocab_size, n).tolist() for n in (5, 33, 100)]
            ids_path = pathlib.Path(folder) / "ids.json"
            ids_path.write_text(json.dumps(rows))
        rows = json.loads(ids_path.read_text())
        base = [model(torch.tensor([row])).logits[0].detach() for row in rows]
        model = peft.PeftModel.from_pretrained(model, arguments.adapter).eval()
        bad = False
        theirs = lorad_logits(arguments, arguments.adapter, ids_path, folder)
        for i, row in enumerate(rows):
            ours = model(torch.tensor([row])).logits[0].detach()
            scale = ours.abs().max()
            error = ((theirs[f"row.{i}"] - ours).abs().max() / scale).item()
            change = ((ours - base[i]).abs().max() / scale).item()
            print(f"row {i}: {len(row)} tokens, largest logit {scale:.3f}, difference {error:.2e}, "
                  f"the adapter's effect {change:.2e}")
            bad |= not error <= arguments.tolerance or not change > 10 * arguments.tolerance
    print("different" if bad else "same logits")
    sys.exit(bad)


if __name__ == "__main__":
    main()
