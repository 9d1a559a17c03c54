"""`web`: a static folder whose page runs the model in the visitor's browser.

The page is the one that `stentor serve` shows; only what answers it differs: a worker that
decodes with ONNX Runtime's WebAssembly. Everything the page needs is in the folder, and its
security policy forbids it to load anything from elsewhere. It is checked in Chromium.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stentor.data.files import write_json
from stentor.errors import InputError
from stentor.export.environments import node_modules
from stentor.export.format import Provenance, Runtime

PACKAGES = {"onnxruntime-web": "1.30.0", "@huggingface/tokenizers": "0.2.0"}
_FILES = {
    "onnxruntime-web": (
        "dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
    "@huggingface/tokenizers": ("dist/tokenizers.min.mjs",),
}  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'"
)
_HERE = Path(__file__).parent / "browser"
_CODE = ("backend.js", "decoder.js", "sampling.js", "template.js")


def write(loaded: Any, folder: Path, kind: str, provenance: Provenance) -> list[str]:
    """Page, tokenizer, int8 ONNX and the runtime that runs it."""
    from stentor.chat import SegmentTemplate
    from stentor.export.onnx import draw, stamped

    if not isinstance(loaded.template, SegmentTemplate):
        raise InputError(
            "web: the page knows our chat template only, and this model has another; "
            "take onnx, which transformers.js runs with the model's own"
        )
    modules = node_modules(PACKAGES, "the format web")
    model = folder / "model"
    model.mkdir()
    loaded.tokenizer.save_pretrained(model, save_jinja_files=False)
    for file in model.iterdir():
        if file.name not in ("tokenizer.json", "tokenizer_config.json"):
            file.unlink()
    size = stamped(draw(loaded.model, kind, browser=True), model / "model.onnx", provenance)
    write_json(model / "stentor.json", _facts(loaded, kind, provenance))
    _write_page(folder)
    _copy_runtime(modules, folder / "runtime")
    every = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return [
        f"model.onnx holds {size / 1e6:.1f} MB, the whole folder {every / 1e6:.1f} MB",
        "any file server can host the folder: python -m http.server -d FOLDER",
    ]


def _facts(loaded: Any, kind: str, provenance: Provenance) -> dict[str, Any]:
    """What the worker needs to know: `model/stentor.json`."""
    from stentor.generate.sampling import from_generation
    from stentor.model import tokenizer as pieces

    config, tokenizer, decoding = loaded.model.config, loaded.tokenizer, from_generation(
        loaded.generation
    )  # fmt: skip
    number = tokenizer.convert_tokens_to_ids
    marks = {
        "system": [number(pieces.SYSTEM), number(pieces.SYSTEM_END)],
        "user": [number(pieces.USER), number(pieces.USER_END)],
    }
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return {
        "name": provenance.name,
        "type": kind,
        "window": loaded.window,
        "system": loaded.generation.get("system") or "",
        "defaults": {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "repetition_penalty": decoding.repetition_penalty,
            "max_new_tokens": decoding.max_new_tokens,
        },
        "begin": begin,
        "marks": marks,
        # the tokenizer's own stop token first: it ends the replies of earlier turns
        "stops": [tokenizer.eos_token_id, *loaded.template.stop_ids - {tokenizer.eos_token_id}],
        "controls": sorted(loaded.template.controls - loaded.template.stop_ids),
        "layers": config.num_hidden_layers,
        "heads": config.num_key_value_heads,
        "size": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "licence": provenance.licence,
        "origin": provenance.metadata(),
    }


def _write_page(folder: Path) -> None:
    """The page of `stentor serve`, with the backend that needs no server."""
    from stentor.serve.page_files import page_files

    for path, (content, _) in page_files().items():
        if path == "/":
            page = content.decode("utf-8")
            head = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            text = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{head}', 1)
            (folder / "index.html").write_text(text, encoding="utf-8")
        else:
            (folder / path.lstrip("/")).write_bytes(content)
    for name in _CODE:
        shutil.copyfile(_HERE / name, folder / name)


def _copy_runtime(modules: Path, folder: Path) -> None:
    folder.mkdir()
    notices = ["The files of this folder come from these packages of npm, unchanged:\n"]
    for package, files in _FILES.items():
        about = json.loads((modules / package / "package.json").read_text("utf-8"))
        notices.append(f"{package} {about['version']}, licence {about.get('license')}")
        for file in files:
            source = modules / package / file
            if not source.is_file():
                raise InputError(
                    f"web: {package} {about['version']} has no {file}; take version "
                    f"{PACKAGES[package]}"
                )
            shutil.copyfile(source, folder / source.name)
        licence = modules / package / "LICENSE"
        if licence.is_file():
            shutil.copyfile(licence, folder / f"LICENSE-{package.rpartition('/')[2]}")
    (folder / "NOTICE").write_text("\n".join(notices) + "\n", encoding="utf-8")


def open_runtime(folder: Path, kind: str, *, threads: int = 0) -> Runtime:
    """The page in headless Chromium, from a plain file server on this machine."""
    from stentor.export.browser_runtime import BrowserRuntime

    return BrowserRuntime(folder)
