"""Which backend decodes a model: chosen by what there is, and said.

`auto` takes a GPU where many replies are wanted and there is one, else ONNX Runtime over a cached
copy in fp32 (the same greedy text as torch, up to ties), else torch. A copy in fewer bits is
another model, so it is taken only when asked for.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stentor.errors import InputError, MissingExtra, ModelError
from stentor.generate import copies
from stentor.generate.backend import Backend
from stentor.generate.engine import Engine
from stentor.generate.onnx_backend import OnnxBackend
from stentor.model import light
from stentor.model.find import resolve

if TYPE_CHECKING:
    from stentor.model.load import LoadedModel

NAMES = ("auto", "torch", "onnx", *(f"onnx:{kind}" for kind in copies.KINDS[1:]))
_LARGE = 400_000_000  # bytes; `auto` makes no larger copies

Tell = Callable[[str], None]


def say(text: str) -> None:
    """To standard error, which never mixes with replies."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Source:
    """A model, as far as it must be known to choose; the rest is read when it is needed."""

    chat: light.ChatModel
    window: int
    size: int
    """Bytes of its weights in fp32."""
    content: Callable[[], str]
    load: Callable[[], LoadedModel]


def open_engine(
    name: str, backend: str = "auto", *, batch: int = 32, many: bool = False, tell: Tell = say
) -> Engine:
    """The engine of a model on the backend of that name; `tell` hears which it is.

    `many`: many replies are wanted, so a GPU is worth its start. Raises InputError for a backend
    that there is not, and MissingExtra for one that is not installed.
    """
    check_name(backend)
    place = resolve(name)
    found = light.read(place) if isinstance(place, Path) and place.is_dir() else None
    if found is None:
        return engine_of(_load(name), backend, batch=batch, many=many, tell=tell)
    folder = Path(found.origin)
    source = _Source(
        found, found.window, light.size(folder),
        cache(lambda: copies.content_of_folder(folder)), lambda: _load(name),
    )  # fmt: skip
    return _engine(source, backend, batch, many, tell)


def engine_of(
    loaded: LoadedModel,
    backend: str = "auto",
    *,
    batch: int = 32,
    many: bool = False,
    tell: Tell = say,
) -> Engine:
    """The same for a model that is loaded already."""
    check_name(backend)
    size = 4 * sum(p.numel() for p in loaded.model.parameters())
    content = cache(lambda: copies.content_of_model(loaded.model))
    source = _Source(loaded, loaded.window, size, content, lambda: loaded)
    return _engine(source, backend, batch, many, tell)


def check_name(backend: str) -> None:
    """InputError unless there is a backend of that name."""
    if backend not in NAMES:
        raise InputError(f"--backend {backend}: there is no such backend; take {', '.join(NAMES)}")


@cache
def gpu() -> bool:
    """Whether torch can compute on something faster than the processor."""
    if not (Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") or _is_mac()):
        return False  # without importing torch, which takes seconds
    return bool(_device().type != "cpu")


def _is_mac() -> bool:
    return sys.platform == "darwin"


def _device() -> Any:
    from stentor.recipe import TrainPart
    from stentor.train.device import machine

    return machine(TrainPart(precision="fp32")).device


def _load(name: str) -> LoadedModel:
    from stentor.model.load import load

    return load(name)


def _engine(source: _Source, backend: str, batch: int, many: bool, tell: Tell) -> Engine:
    chosen, reason = None, "" if backend == "torch" else _obstacle(source, backend, many)
    if reason is None:
        try:
            chosen = _onnx(source, backend, tell)
        except OSError as error:  # a full disk, a home that can't be written
            reason = f"the copy for ONNX Runtime can't be kept: {error}"
            if backend != "auto":
                raise InputError(f"{reason}; set STENTOR_CACHE to another folder") from error
    if chosen is None:
        chosen = _torch(source.load(), many)
    tell(f"decoding: {chosen.name}" + (f" ({reason})" if reason else ""))
    return Engine(source.chat, batch=batch, backend=chosen, content=source.content)


def _obstacle(source: _Source, backend: str, many: bool) -> str | None:
    """Why `auto` does not take ONNX Runtime ("" where that needs no words), or None."""
    asked = backend != "auto"
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        missing = MissingExtra("onnxruntime", "onnx", "faster decoding")
        if asked:
            raise missing
        return str(missing)
    if asked:
        return None
    if many and gpu():
        return ""
    if source.size > _LARGE:
        return f"a copy for ONNX Runtime would take {source.size / 1e6:.0f} MB: --backend onnx"
    return None


def _onnx(source: _Source, backend: str, tell: Tell) -> Backend:
    """The cached copy, opened; it is made where there is none, and again where it is damaged."""
    kind = backend.partition(":")[2] or "fp32"
    file = copies.path_of(source.content(), kind)
    if file.exists():
        try:
            found = OnnxBackend(file, kind, source.window)
        except ModelError:
            file.unlink()
        else:
            copies.note_use(file)
            return found
    tell(f"making a copy for ONNX Runtime, once: {file}")
    model = source.load().model
    copies.make(model, kind, file)
    made = OnnxBackend(file, kind, source.window)
    if kind == "fp32":
        try:
            copies.check(made, _torch_backend(model))
        except BaseException:
            file.unlink()
            raise
    return made


def _torch(loaded: LoadedModel, many: bool) -> Backend:
    if many and gpu():
        loaded.model.to(_device())
    return _torch_backend(loaded.model)


def _torch_backend(model: Any) -> Backend:
    from stentor.generate.torch_backend import TorchBackend

    return TorchBackend(model)
