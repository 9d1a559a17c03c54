"""Ten unselected continuations by a base model, in Markdown.

    python benchmarks/base_samples.py MODEL TEXTS [--temperature 0.7] [--seed 1]

TEXTS is a file of `text` rows that the base was not trained on. The first ten documents whose
first paragraph has a dozen words or more begin the samples; nothing is chosen by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stentor.evaluate.loss import read_texts
from stentor.model.load import load

COUNT, WORDS, TOKENS = 10, 12, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    loaded = load(options.model)
    torch.manual_seed(options.seed)
    paragraphs = (
        next((p for p in text.split("\n") if len(p.split()) >= WORDS), "")
        for text in read_texts(options.texts)
    )
    begun = [" ".join(p.split()[:WORDS]) for p in paragraphs if p][:COUNT]
    for number, start in enumerate(begun, 1):
        ids = loaded.tokenizer(start, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = torch.cat([torch.tensor([[loaded.tokenizer.bos_token_id]]), ids], dim=1)
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_p=0.9,
            temperature=options.temperature, max_new_tokens=TOKENS,
        )  # fmt: skip
        text = loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        print(f"{number}. **{start}** {' '.join(text.split())}")


if __name__ == "__main__":
    main()
