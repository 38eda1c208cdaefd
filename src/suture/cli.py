"""The command line.

Commands import what they need when they run: torch takes seconds to import, and help should not.
"""

from pathlib import Path
from typing import Annotated, Literal

from suture.demo import EPOCHS
from suture.errors import MissingExtraError

try:
    import typer
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "The command `suture` cannot start: typer is not installed.",
        "The command line is the extra `cli`; the library itself works without it.",
        'pip install "suture[cli]"',
    ) from error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def suture() -> None:
    """Train PyTorch models through functions that PyTorch cannot differentiate."""


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the pictures.", file_okay=False, writable=True)
    ] = Path("suture-demo"),
    seed: Annotated[int, typer.Option(help="Chooses the data and the order of the batches.")] = 0,
    epochs: Annotated[int, typer.Option(help="Rounds of training over all data.", min=1)] = EPOCHS,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures.")] = True,
) -> None:
    """Train a model through a string and eval, next to the same model without the string.

    The exit status is 1 when, after 20 epochs or more, a model did not find the true weight.
    """
    from suture.demo import console

    if not console.show(out if plots else None, seed, epochs):
        raise typer.Exit(1)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="module:function", show_default=False)],
    args: Annotated[
        list[str] | None,
        typer.Option(
            help="One argument: a Python literal, where lists of numbers and numbers with a point "
            "become tensors, or a .pt, .npy or .json file. Repeat it for more arguments, or give a "
            "tuple."
        ),
    ] = None,
    batch_dims: Annotated[
        str | None, typer.Option(help="The claim to be checked, such as '(0, None)'.")
    ] = None,
    interface: Annotated[
        Literal["torch", "numpy"] | None,
        typer.Option(help="What the function receives.", show_default="torch, or numpy if it must"),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="About how many evaluations to spend.", min=1)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Save the figure here.", dir_okay=False)] = None,
) -> None:
    """Look at a function before training through it, and say what to write.

    The exit status is 1 when something is wrong: a wrong vjp, step or claim, or a failing function.
    """
    from suture._check import command

    if not command.run(target, args or [], batch_dims, interface, budget, plot):
        raise typer.Exit(1)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="What `suture.record` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The page.", show_default="beside the record, .html", dir_okay=False),
    ] = None,
) -> None:
    """Draw what a training called: a page of HTML, and totals here.

    The record may be one that is still being written.
    """
    from suture._report import command

    command.run(record, out)


memo = typer.Typer(no_args_is_help=True)
app.add_typer(memo, name="memo", help="Look at a memo, and make it smaller.")

MemoPath = Annotated[Path, typer.Argument(help="The memo's file.", show_default=False)]


@memo.command()
def info(path: MemoPath) -> None:
    """Say how many values a memo holds, how large it is, and when they were written."""
    from suture import _memo_command

    print(_memo_command.info(path))


@memo.command()
def prune(
    path: MemoPath,
    older_than: Annotated[
        str | None, typer.Option(help="Delete what was written before: 30d (s, m, h, d, w).")
    ] = None,
    larger_than: Annotated[
        str | None, typer.Option(help="Delete larger values: 10MB (B, kB, MB, GB).")
    ] = None,
) -> None:
    """Delete values from a memo, and give their space back."""
    from suture import _memo_command

    print(_memo_command.prune(path, older_than, larger_than))
