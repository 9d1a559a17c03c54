"""The command line: verbs and flags only. Heavy libraries are imported inside the verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from stentor import __version__
from stentor.errors import StentorError

app = typer.Typer(
    name="stentor",
    help="Make a tiny Llama base model into a small chat model, safe and useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="A.B=C", help="Change a field of the recipe; repeatable."),
]
Out = Annotated[Optional[Path], typer.Option("--out", help="Folder of the run (new or empty).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    out: Out = None,
    resume: Resume = False,
    overrides: Overrides = None,
) -> None:
    """Train a base model from scratch."""
    from stentor import recipe as recipes
    from stentor.train.pretrain import pretrain as work

    run = work(recipes.load(recipe, recipes.PretrainRecipe, overrides or ()), out, resume=resume)
    print(run.path)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Entry point: a user's mistake is one line and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except StentorError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
