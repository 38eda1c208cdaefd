"""Train the same model twice: by automatic differentiation, and through a string.

Both models learn w in f(x, w) = 2·x·w₀ + x²·w₁ from examples. One computes f with torch operations.
The other computes the same numbers with `eval` from a string, where PyTorch loses track of them;
Suture finds the gradient by calling the function at nearby points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import suture
from suture.demo import EPOCHS

TRUE_WEIGHT = (1.2, -3.4)
TOLERANCE = 0.005
"""How close to the true weight both models come in `EPOCHS` epochs."""

Function = Callable[[Tensor, Tensor], Tensor]


def f(x: Tensor, w: Tensor) -> Tensor:
    """Compute 2·x·w₀ + x²·w₁ with torch operations, which remember how they were computed."""
    return 2 * x * w[0] + x**2 * w[1]


def f_str(x: Tensor, w: Tensor) -> Tensor:
    """Compute the same for each element of x, but through a string."""
    strings = [f"2 * {x_} * {w[0]} + ({x_})**2 * {w[1]}" for x_ in x]
    return torch.tensor([eval(string) for string in strings])


class Model(nn.Module):
    """A weight of two zeros, and the function that it goes through."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the function makes of x and the weight."""
        return self.function(x, self.weight)


@dataclass(frozen=True)
class Data:
    """Examples of f at the true weight: pairs (x, y), x uniform in [0, 1)."""

    training: TensorDataset
    validation: TensorDataset


def make_data(seed: int) -> Data:
    """Draw 200 examples for training and 10 for validation."""
    x = torch.rand(210, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    y = f(x, torch.tensor(TRUE_WEIGHT, dtype=torch.float32))
    return Data(TensorDataset(x[:200], y[:200]), TensorDataset(x[200:], y[200:]))


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training left behind.

    Attributes:
        number: 1 for the first epoch.
        losses: mean squared error of each batch, before its step.
        validation_loss: mean squared error over the validation data, after the epoch.
        predictions: the model's answers for the validation data, after the epoch.
        weight: the two weights, after the epoch.
        seconds: time that the epoch took.
    """

    number: int
    losses: tuple[float, ...]
    validation_loss: float
    predictions: tuple[float, ...]
    weight: tuple[float, ...]
    seconds: float

    @property
    def training_loss(self) -> float:
        """Mean of the losses of all batches."""
        return sum(self.losses) / len(self.losses)


def train(model: Model, data: Data, epochs: int, seed: int) -> Iterator[Epoch]:
    """Train the model, and yield what happened after each epoch.

    The same seed gives the same batches in the same order, whatever the model.
    """
    shuffle = torch.Generator().manual_seed(seed)
    batches = DataLoader(data.training, batch_size=10, shuffle=True, generator=shuffle)
    x_valid, y_valid = data.validation.tensors
    loss_function = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    for number in range(1, epochs + 1):
        start = time.perf_counter()
        losses = []
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            predictions = model(x_valid)
            validation_loss = loss_function(predictions, y_valid).item()
        yield Epoch(
            number=number,
            losses=tuple(losses),
            validation_loss=validation_loss,
            predictions=tuple(predictions.tolist()),
            weight=tuple(model.weight.tolist()),
            seconds=time.perf_counter() - start,
        )


def error_without_suture(data: Data) -> str:
    """Return what PyTorch answers when the bare `f_str` is to be trained."""
    x, y = data.validation.tensors
    loss = nn.MSELoss()(Model(f_str)(x), y)
    try:
        loss.backward()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("f_str has to cut the graph, or there is nothing to show")


@dataclass
class Comparison:
    """Both trainings, epoch by epoch.

    Attributes:
        data: what both models learned from.
        automatic: epochs of the model that goes through `f`.
        through_string: epochs of the model that goes through the wrapped `f_str`.
        evaluations: how often `f_str` was called.
    """

    data: Data
    automatic: list[Epoch]
    through_string: list[Epoch]
    evaluations: int = 0

    @property
    def loss_difference(self) -> float:
        """Largest difference between the loss curves, over all training steps."""
        return self._largest_difference(lambda epoch: epoch.losses)

    @property
    def prediction_difference(self) -> float:
        """Largest difference between the validation predictions, over all epochs."""
        return self._largest_difference(lambda epoch: epoch.predictions)

    @property
    def distance(self) -> float:
        """Largest distance of a weight of either model from the true weight, at the end."""
        ends = (self.automatic[-1].weight, self.through_string[-1].weight)
        return max(abs(w - t) for end in ends for w, t in zip(end, TRUE_WEIGHT, strict=True))

    def _largest_difference(self, values: Callable[[Epoch], tuple[float, ...]]) -> float:
        return max(
            abs(a - s)
            for automatic, through_string in zip(self.automatic, self.through_string, strict=True)
            for a, s in zip(values(automatic), values(through_string), strict=True)
        )


def compare(seed: int = 0, epochs: int = EPOCHS) -> Iterator[Comparison]:
    """Train both models side by side, and yield the comparison as it grows by an epoch."""
    data = make_data(seed)
    black_box = suture.differentiable(f_str, batch_dims=(0, None))
    comparison = Comparison(data, [], [])
    for automatic, through_string in zip(
        train(Model(f), data, epochs, seed),
        train(Model(black_box), data, epochs, seed),
        strict=True,
    ):
        comparison.automatic.append(automatic)
        comparison.through_string.append(through_string)
        comparison.evaluations = black_box.evaluations
        yield comparison
