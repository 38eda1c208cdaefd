"""The sentences about executors: what they did to calls, and what to type instead."""

from __future__ import annotations

from suture._complaints import summary
from suture._frame import Frame
from suture._results import article
from suture.errors import EvaluationError, MethodError, WorkerDied


def pool_broken(frame: Frame, pool: object) -> WorkerDied:
    """Complain that an executor has broken, and nothing makes it anew."""
    return WorkerDied(
        f"The executor of `{frame.box.name}`, {kind_of(pool)}, is broken: one of its workers died.",
        "Such a pool loses all of its tasks with one worker.",
        "Use `executor=suture.executors.Workers()`, or pass a function that makes the pool, "
        "`executor=lambda: loky.get_reusable_executor()`: it is called again then.",
    )


def died_with_pool(frame: Frame, pool: object) -> WorkerDied:
    """Complain that a worker died in a pool that breaks then."""
    return WorkerDied(
        f"A worker that evaluated `{frame.box.name}` died, and {kind_of(pool)} with it.",
        "A black box has to return or to raise; such a pool loses all of its tasks with one "
        "worker.",
        "Use `executor=suture.executors.Workers()`, which loses nothing but the point, or "
        "`retries=1` and a function that makes the pool, `executor=lambda: …`.",
    )


def pool_closed(frame: Frame, pool: object, error: Exception) -> MethodError:
    """Complain that an executor takes no more calls."""
    return MethodError(
        f"The executor of `{frame.box.name}`, {kind_of(pool)}, takes no calls: {summary(error)}",
        "Forward and backward need it; a pool ends with its `with` block.",
        "Train inside of the block, or make the pool without one: `pool = Workers()`.",
    )


def no_future(frame: Frame, pool: object, got: object) -> MethodError:
    """Complain about something that submits, but not as `concurrent.futures` does."""
    return MethodError(
        f"The executor of `{frame.box.name}`, {kind_of(pool)}, returned {kind_of(got)}.",
        "Its `submit` has to return a future with the methods of `concurrent.futures.Future`.",
        "Use `executors.dask(client)` for Dask, `executors.ray()` for Ray, or another executor.",
    )


def canceled(frame: Frame) -> EvaluationError:
    """Complain that somebody else has canceled an evaluation."""
    return EvaluationError(
        f"An evaluation of `{frame.box.name}` was canceled.",
        "Its executor was shut down, or somebody canceled its tasks, while a gradient waited.",
        "Call `shutdown()` after the training.",
    )


def no_answers(frame: Frame, pool: object, got: object) -> MethodError:
    """Complain about an executor whose futures hold something else than was returned."""
    return MethodError(
        f"A future of the executor of `{frame.box.name}`, {kind_of(pool)}, held {kind_of(got)}.",
        "It has to hold what the submitted function returned.",
        "Use another executor, for example `executor=suture.executors.Workers()`.",
    )


def kind_of(thing: object) -> str:
    """Return what a thing is: `a ThreadPoolExecutor`."""
    return article(type(thing).__name__)
