"""Tools of other ecosystems, each in a folder of its own in the cache, made once and reused.

LiteRT's converter needs other versions of packages than we do, and what runs in a browser comes
from npm. Both are installed by their ordinary clients at the first need; a file `finished` is
written last, so an interrupted installation is begun anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stentor.data.files import cache_folder, lock
from stentor.errors import MissingProgram

_MARK = "finished"
_LIMIT = 3600.0  # seconds for an installation


def has_node_modules(packages: Mapping[str, str]) -> bool:
    """Whether `node_modules` gives these without installing anything."""
    given = os.environ.get("STENTOR_NODE_MODULES")
    if given:
        return all((Path(given) / name / "package.json").is_file() for name in packages)
    return (_place("npm", _wanted(packages)) / _MARK).is_file()


def _wanted(packages: Mapping[str, str]) -> list[str]:
    return [f"{name}@{version}" for name, version in sorted(packages.items())]


def node_modules(packages: Mapping[str, str], purpose: str) -> Path:
    """A `node_modules` folder with npm packages (name → version).

    STENTOR_NODE_MODULES names one that is there already. MissingProgram without npm, or when
    npm can't get a package.
    """
    given = os.environ.get("STENTOR_NODE_MODULES")
    if given:
        missing = [name for name in packages if not (Path(given) / name / "package.json").is_file()]
        if missing:
            raise MissingProgram(
                f"{purpose}: {', '.join(missing)} is not in STENTOR_NODE_MODULES ({given})"
            )
        return Path(given)
    wanted = _wanted(packages)

    def install(folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise MissingProgram(
                f"{purpose} needs {' and '.join(wanted)} from npm, and there is no npm here; "
                "install Node.js 20 or newer, or name a node_modules folder with "
                "STENTOR_NODE_MODULES"
            )
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--save-exact"]
        _run([npm, "install", *flags, *wanted], folder, purpose)

    return _made("npm", wanted, install) / "node_modules"


def python_with(packages: Sequence[str], purpose: str) -> Path:
    """A Python interpreter that sees these packages first, and ours behind them.

    Ours are shared so that torch is not fetched twice, nor in another build. MissingProgram when
    pip can't get a package.
    """

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)], folder, purpose)
        python = folder / "bin" / "python"
        places = [*site.getsitepackages(), sysconfig.get_paths()["purelib"]]
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        lines = "".join(f"{place}\n" for place in dict.fromkeys(places))
        (Path(own) / "_ours.pth").write_text(lines, encoding="utf-8")
        if packages:
            _run([str(python), "-m", "pip", "install", "--quiet", *packages], folder, purpose)

    return _made("python", _interpreter(packages), install) / "bin" / "python"


def has_python_with(packages: Sequence[str]) -> bool:
    """Whether `python_with` gives these without installing anything."""
    return (_place("python", _interpreter(packages)) / _MARK).is_file()


def _interpreter(packages: Sequence[str]) -> list[str]:
    tag = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [tag, sys.prefix, *packages]


def _place(kind: str, wanted: Sequence[str]) -> Path:
    key = hashlib.sha256(json.dumps(list(wanted)).encode()).hexdigest()[:12]
    return cache_folder() / "tools" / f"{kind}-{key}"


def _made(kind: str, wanted: Sequence[str], install: Callable[[Path], None]) -> Path:
    """The folder of this installation, made now if it is not there.

    Of two programs that want it at once the second waits for the first.
    """
    folder = _place(kind, wanted)
    mark = folder / _MARK
    if mark.is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a", encoding="utf-8") as held:
        lock(held, wait=True)
        if mark.is_file():
            return folder
        # venvs can't be moved, so the mark and not the name says that it is whole
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        print(f"installing {', '.join(wanted)} into {folder} (once)", file=sys.stderr)
        install(folder)
        mark.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return folder


def _named(command: Sequence[str]) -> str:
    words = [Path(command[0]).name, *command[1:]]
    return " ".join(word for word in words[:4] if not word.startswith(("-", "/")))


def _run(command: Sequence[str], folder: Path, purpose: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = next((x for x in reversed(said) if "error" in x.lower()), said[-1] if said else "")
        raise MissingProgram(
            f"{purpose}: {_named(command)} failed: {last.strip()}; "
            "see that the package index can be reached, and run it again"
        )
