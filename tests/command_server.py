"""Runs the command `stentor` in processes of their own, forked from one that has imported it.

A process that starts from nothing spends seconds on imports. This one imports once, then forks a
child for every request (a JSON line on standard input) and answers with two lines: the child's
process id, and its exit status (of several ranks, those of the first). A child can be told to
die by SIGKILL at an exact moment: `"die": ["os.rename", "01-0000002", 1]` is the first audit
event of that name whose arguments show this text.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def _become(request: dict[str, Any], rank: int) -> None:
    """Turn this child into the process that the request asks for."""
    shown = "" if rank == 0 else f".{rank}"
    for number, name, flags in (
        (0, request["stdin"], os.O_RDONLY),
        (1, request["stdout"] + shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["stderr"] + shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, flags), number)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    if request["ranks"] > 1:  # what torchrun and accelerate set
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(request["ranks"]), "MASTER_ADDR": "127.0.0.1"}
    if request["die"]:
        _die_at(*request["die"])
    if request["file_limit"]:
        # the kernel kills a process in the middle of the write that passes the limit
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    sys.argv = ["stentor", *request["arguments"]]


def _die_at(event: str, shown: str, count: int) -> None:
    left = [count]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and shown in repr(arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _child(request: dict[str, Any], rank: int) -> int:
    from stentor.cli import main

    try:
        _become(request, rank)
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def _serve() -> None:
    import stentor.evaluate.command
    import stentor.train.curriculum
    import stentor.train.pretrain  # noqa: F401
    from stentor.model import adapters, load
    from stentor.recipe import AdapterPart

    # what is read and compiled once in a process is done before the forks
    warm = load.load("preset:stentor-2m")
    adapters.attach(warm.model, AdapterPart(rank=1), "warm", seed=0)
    answers = os.dup(1)
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for rank in range(request["ranks"]):
            child = os.fork()
            if child == 0:
                status = _child(request, rank)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
            children.append(child)
        os.write(answers, f"{children[0]}\n".encode())
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        os.write(answers, f"{codes[0]}\n".encode())


if __name__ == "__main__":
    sys.path = [p for p in sys.path if Path(p) != Path(__file__).parent]
    _serve()
