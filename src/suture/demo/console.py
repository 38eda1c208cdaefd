"""Show the experiment on the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from suture.demo import EPOCHS
from suture.demo.experiment import (
    TOLERANCE,
    TRUE_WEIGHT,
    Comparison,
    Epoch,
    compare,
    error_without_suture,
    f_str,
    make_data,
)
from suture.errors import MissingExtraError

SavePictures = Callable[[Comparison, Path], list[Path]]


def show(out: Path | None, seed: int, epochs: int) -> bool:
    """Run the experiment and show it; save pictures in the folder `out`, unless it is None.

    Returns:
        False if the models were trained for the full `EPOCHS` epochs, or more, and one of them is
        not within `TOLERANCE` of the true weight. True otherwise.
    """
    save_pictures = None if out is None else _import_pictures()
    console = Console(highlight=False)
    _show_problem(console, seed)
    comparison = _show_training(console, seed, epochs)
    _show_result(console, comparison)
    if out is not None and save_pictures is not None:
        _show_heading(console, "Pictures")
        for path in save_pictures(comparison, out):
            console.print(f"  {path}", soft_wrap=True)
    return _show_verdict(console, comparison)


def _import_pictures() -> SavePictures:
    try:
        from suture.demo.pictures import save_pictures
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "`suture demo` cannot draw its pictures: matplotlib is not installed.",
            "Pictures are the extra `plot`; the training itself works without it.",
            'pip install "suture[plot]", or train without pictures: suture demo --no-plots',
        ) from error
    return save_pictures


def _show_heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]\n")


def _show_code(console: Console, source: str) -> None:
    syntax = Syntax(source.strip(), "python", theme="ansi_dark", background_color="default")
    console.print(Padding(syntax, (0, 0, 0, 2), expand=False))


def _show_problem(console: Console, seed: int) -> None:
    _show_heading(console, "The problem")
    console.print("  A model that computes through a string cannot be trained:\n")
    _show_code(console, inspect.getsource(f_str))
    console.print("\n  loss.backward() raises RuntimeError:\n")
    console.print(Text(f"  {error_without_suture(make_data(seed))}", style="red"), soft_wrap=True)
    _show_heading(console, "The remedy")
    _show_code(console, "f = suture.differentiable(f_str, batch_dims=(0, None))")


def _show_training(console: Console, seed: int, epochs: int) -> Comparison:
    _show_heading(console, "The same model, trained with and without the string")
    console.print(f"{'':9}{'automatic differentiation':36}Suture, through the string")
    console.print(f"  epoch  {'loss':11}{'weight':25}{'loss':11}weight")
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    # A bar is for watching: it vanishes at the end, and a file or a pipe never gets one.
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        for comparison in progress.track(compare(seed, epochs), total=epochs, description="epoch"):
            _show_epoch(console, comparison.automatic[-1], comparison.through_string[-1])
    return comparison


def _show_epoch(console: Console, automatic: Epoch, through_string: Epoch) -> None:
    cells = (
        f"{epoch.training_loss:.3e}  {_pair(epoch.weight):23}"
        for epoch in (automatic, through_string)
    )
    console.print(f"  {automatic.number:5}  {'  '.join(cells)}")


def _pair(weight: tuple[float, ...]) -> str:
    return f"({', '.join(f'{w:8.5f}' for w in weight)})"


def _show_result(console: Console, comparison: Comparison) -> None:
    trainings = (comparison.automatic, comparison.through_string)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    table.add_column("automatic\ndifferentiation", justify="right")
    table.add_column("Suture,\nthrough the string", justify="right")
    table.add_row("weight", *(_pair(epochs[-1].weight) for epochs in trainings))
    table.add_row("training loss", *(f"{epochs[-1].training_loss:.3e}" for epochs in trainings))
    table.add_row("validation loss", *(f"{epochs[-1].validation_loss:.3e}" for epochs in trainings))
    table.add_row("evaluations of f_str", "", f"{comparison.evaluations}")
    table.add_row("seconds", *(f"{sum(e.seconds for e in epochs):.2f}" for epochs in trainings))
    table.add_section()
    table.add_row("largest difference of the", "", "")
    table.add_row("  loss curves", "", f"{comparison.loss_difference:.1e}")
    table.add_row("  validation predictions", "", f"{comparison.prediction_difference:.1e}")
    _show_heading(console, f"After {_count_epochs(comparison)}")
    console.print(Padding(table, (0, 0, 0, 1), expand=False))


def _count_epochs(comparison: Comparison) -> str:
    number = comparison.automatic[-1].number
    return f"{number} epoch{'s' if number > 1 else ''}"


def _show_verdict(console: Console, comparison: Comparison) -> bool:
    target = f"{TOLERANCE} of the true weight {TRUE_WEIGHT}"
    if comparison.distance < TOLERANCE:
        console.print(f"\n[bold green]Both models ended within {target}.[/]\n")
        return True
    is_failure = comparison.automatic[-1].number >= EPOCHS
    color = "red" if is_failure else "yellow"
    console.print(
        f"\n[bold {color}]After {_count_epochs(comparison)} a weight is {comparison.distance:.3f} "
        f"away from the true one.[/]\n"
        f"{EPOCHS} epochs should bring both models within {target}.\n"
    )
    return not is_failure
