"""The experiment, the pictures, and the command `suture demo`."""

import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from suture.__main__ import main
from suture.cli import app
from suture.demo import EPOCHS, console, experiment
from suture.demo.experiment import TOLERANCE, TRUE_WEIGHT
from suture.errors import MissingExtraError

NO_GRAPH = "element 0 of tensors does not require grad and does not have a grad_fn"


def run_experiment(**settings):
    *_, comparison = experiment.compare(**settings)
    return comparison


def invoke(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def full_experiment():
    return run_experiment(seed=0)


def test_both_functions_agree():
    x, w = torch.rand(5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, -1e-5])
    torch.testing.assert_close(experiment.f_str(x, w), experiment.f(x, w))


def test_data_are_seeded_examples_of_the_true_function():
    data = experiment.make_data(seed=0)
    for dataset, count in ((data.training, 200), (data.validation, 10)):
        x, y = dataset.tensors
        assert x.shape == y.shape == (count,)
        assert x.dtype == y.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() < 1
        torch.testing.assert_close(y, experiment.f(x, torch.tensor(TRUE_WEIGHT)))
    assert not torch.equal(data.training.tensors[0], experiment.make_data(1).training.tensors[0])


def test_the_bare_function_cannot_be_trained():
    assert experiment.error_without_suture(experiment.make_data(seed=0)) == NO_GRAPH


def test_both_models_find_the_true_weight(full_experiment):
    for epochs in (full_experiment.automatic, full_experiment.through_string):
        assert len(epochs) == EPOCHS == 20
        assert epochs[-1].weight == pytest.approx(TRUE_WEIGHT, abs=TOLERANCE)
    assert full_experiment.distance < TOLERANCE == 0.005


def test_both_models_agree_at_every_step(full_experiment):
    assert full_experiment.automatic[0].losses[0] == full_experiment.through_string[0].losses[0]
    # Measured: below 4e-5 for each of the seeds 0 to 11; the losses start at 0.1.
    assert full_experiment.loss_difference < 1e-4
    assert full_experiment.prediction_difference < 1e-4


def test_a_step_costs_one_evaluation_and_one_for_each_weight(full_experiment):
    steps, validations = 400, 20
    # Weight and output begin at zero, so that steps are chosen again when their sizes are known:
    # each time six evaluations for the noise, and two more for the gradient.
    calibrations = 3 * (6 + 2)
    refreshes = 7  # one for each hundred inputs, 2 a step
    assert full_experiment.evaluations == steps * (1 + 2) + validations + calibrations + refreshes


def test_same_seed_same_numbers():
    first, again, other = (run_experiment(seed=seed, epochs=2) for seed in (3, 3, 4))
    for one, two in zip(first.through_string, again.through_string, strict=True):
        assert (one.losses, one.weight, one.predictions) == (
            two.losses,
            two.weight,
            two.predictions,
        )
    assert first.through_string[0].losses != other.through_string[0].losses


def test_the_error_is_shown_before_the_training():
    result = invoke("--epochs", 2, "--no-plots")
    assert result.exit_code == 0
    assert result.output.index("def f_str(") < result.output.index(NO_GRAPH)
    assert result.output.index(NO_GRAPH) < result.output.index("epoch  loss")


def test_a_line_per_epoch_and_a_table_are_shown(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = invoke("--epochs", 2, "--no-plots", "--seed", 3)
    comparison = run_experiment(seed=3, epochs=2)
    for epoch in comparison.through_string:
        assert f"{epoch.training_loss:.3e}" in result.output
        assert "({:8.5f}, {:8.5f})".format(*epoch.weight) in result.output
    for row in ("loss curves", "validation predictions", "evaluations of f_str", "seconds"):
        assert row in result.output
    assert re.search(rf"evaluations of f_str +{comparison.evaluations}\s", result.output)
    assert "After 2 epochs a weight is" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_no_progress_bar_and_no_colors():
    output = invoke("--epochs", 2, "--no-plots").output
    assert not {"\x1b", "\r", "━"} & set(output)
    assert max(map(len, output.splitlines())) <= 80


def test_pictures_are_drawn_and_named(tmp_path):
    folder = tmp_path / "pictures of today"
    result = invoke("--epochs", 2, "--out", folder)
    assert result.exit_code == 0
    pictures = sorted(folder.iterdir())
    assert [path.name for path in pictures] == [
        "losses.png",
        "losses_overlaid.png",
        "prediction_difference.png",
    ]
    for path in pictures:
        assert str(path) in result.output
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 500
        colors = np.unique(np.round(pixels.reshape(-1, pixels.shape[2]), 1), axis=0)
        assert len(colors) > 10


def test_a_model_that_missed_the_weight_is_a_failure(monkeypatch, full_experiment):
    monkeypatch.setattr(console, "compare", lambda seed, epochs: iter([full_experiment]))
    assert invoke("--no-plots").exit_code == 0
    monkeypatch.setattr(experiment, "TRUE_WEIGHT", (1.2, -3.39))
    result = invoke("--no-plots")
    assert result.exit_code == 1
    assert "After 20 epochs a weight is 0.010 away from the true one." in result.output


def test_a_short_training_is_never_a_failure():
    result = invoke("--epochs", 1, "--no-plots")
    assert result.exit_code == 0
    assert "20 epochs should bring both models within 0.005" in result.output


def test_zero_epochs_are_refused():
    assert invoke("--epochs", 0).exit_code == 2


def test_missing_matplotlib_is_reported_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "suture.demo.pictures", raising=False)
    result = invoke("--out", tmp_path)
    assert result.output == ""
    assert isinstance(result.exception, MissingExtraError)
    assert str(result.exception).splitlines() == [
        "`suture demo` cannot draw its pictures: matplotlib is not installed.",
        "Pictures are the extra `plot`; the training itself works without it.",
        'pip install "suture[plot]", or train without pictures: suture demo --no-plots',
    ]


def test_missing_typer_is_reported_without_a_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "suture.cli")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code.splitlines() == [
        "The command `suture` cannot start: typer is not installed.",
        "The command line is the extra `cli`; the library itself works without it.",
        'pip install "suture[cli]"',
    ]
    monkeypatch.undo()
    importlib.import_module("suture.cli")


def test_help_does_not_wait_for_torch():
    program = (
        "import sys; sys.argv = ['suture', '--help']\n"
        "from suture.__main__ import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert "demo" in output
    assert output.endswith("False\n")
