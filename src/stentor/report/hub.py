"""`stentor card --push`: a run's model, card, plots and report to a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor.errors import InputError, StentorError
from stentor.evaluate.probe import read_records
from stentor.report.card import card, read_report, write_all

_BESIDE = ("report.json", "report.html", "recipe.yaml", "metrics.jsonl", "probe.jsonl")
"""With these `stentor card` writes card, plots and page again from what lies on the hub."""


def push(run: Path, repo: str, *, private: bool = False) -> str:
    """Upload what a run made as one commit; returns the address of that commit.

    The model's files go to the top of the repository, so that `from_pretrained(repo)` finds
    them, and the card's quick start names the repository. A repository that exists gets one
    commit more: what was there stays in its history.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    report, records = read_report(run), read_records(run)
    if not (run / "model" / "config.json").is_file():
        raise InputError(f"{run}: there is no model in it to upload")
    plots = write_all(run, report, records)
    api = HfApi(library_name="stentor", library_version=report["versions"]["stentor"])
    try:
        place = api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        done = api.create_commit(
            place.repo_id, _operations(run, report, records, plots, place.repo_id),
            commit_message=f"{report['name']}, made with stentor {report['versions']['stentor']}",
        )  # fmt: skip
    except HFValidationError as error:
        raise InputError(f"--push {repo}: {_first(error)}") from None
    except OfflineModeIsEnabled:
        raise InputError("--push: HF_HUB_OFFLINE is set, so nothing can be uploaded") from None
    except LocalTokenNotFoundError:
        raise InputError(f"--push {repo}: {_LOGIN}") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(f"--push {repo}: the hub does not let you in; {_LOGIN}") from None
        raise StentorError(f"--push {repo}: the hub refused: {_first(error)}") from None
    except (OSError, HfHubHTTPError.__bases__[0]) as error:
        # no network: errors of the HTTP library, which differs between versions of the hub's
        raise StentorError(f"--push {repo}: the hub can't be reached: {_first(error)}") from None
    return str(done.commit_url)


_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _operations(
    run: Path, report: dict[str, Any], records: Any, plots: Sequence[str], repo: str
) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    text = card(report, records, place=repo, plots=plots)
    files = {f.name: f for f in sorted((run / "model").iterdir()) if f.is_file()}
    files |= {name: run / name for name in _BESIDE if (run / name).is_file()}
    drawn = [f"plots/{name}{kind}" for name in plots for kind in (".svg", ".png")]
    files |= {name: run / name for name in drawn}  # the folder may hold others, or older ones
    return [
        CommitOperationAdd("README.md", text.encode("utf-8")),
        *(CommitOperationAdd(name, file) for name, file in files.items() if name != "README.md"),
    ]
