"""What `check` finds on functions of many kinds, how it says it, and the command `suture check`."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import suture
from suture import CustomVJP, FiniteDifference, differentiable, stencils
from suture._check import command, examine
from suture._check.pattern import colors_of
from suture._check.written import written
from suture.cli import app
from suture.errors import MethodError, MissingExtraError
from suture.functions import Command, parse

X = torch.tensor([0.7, -1.3, 2.1])
ROWS = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def look(f, *args, budget=None, **kwargs):
    return examine(f, args, kwargs, budget)


def kinds(report):
    return {entry.kind for entry in report.precision}


def smooth(x):
    return torch.stack([torch.sin(x).sum(), (x**2).prod()])


def printed(digits):
    def f(x):
        return torch.tensor([float(f"{v:.{digits}g}") for v in smooth(x)], dtype=torch.float64)

    return f


def with_noise(size):
    generator = torch.Generator().manual_seed(0)

    def f(x):
        return smooth(x) + size * torch.randn(2, generator=generator, dtype=torch.float64)

    return f


def tree(x):
    if x[0] > 0.5:
        return torch.tensor(1.3 if x[1] > -1 else 2.7)
    return torch.tensor(0.1 if x[2] > 2 else -4.0)


def knapsack(values):
    weights = (2, 3, 4, 5)
    fitting = [
        choice
        for choice in itertools.product((0, 1), repeat=4)
        if sum(w * c for w, c in zip(weights, choice, strict=True)) <= 7
    ]
    best = max(fitting, key=lambda choice: float(values @ torch.tensor(choice).double()))
    return torch.tensor(best).double()


def one_hot(x):
    return torch.nn.functional.one_hot(x.argmax(), 3).double()


def batch_norm(x):
    return (x - x.mean(0)) / x.std(0)


def layer(x, w):
    return torch.tanh(x @ w)


def tridiagonal(x):
    y = x * x
    y[1:] = y[1:] + x[:-1]
    y[:-1] = y[:-1] + x[1:] ** 3
    return y


# ---- precision and noise ----


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        (smooth, "float64"),
        (lambda x: smooth(x.float()), "float32"),
        (lambda x: smooth(x.float()).double(), "float32"),
        (lambda x: smooth(x.float()).double() * 2.7, "float32"),
        (lambda x: smooth(x).bfloat16(), "bfloat16"),
        (printed(6), "digits"),
        (lambda x: printed(6)(x).float(), "digits"),
        (printed(3), "digits"),
        (lambda x: torch.round(5 * smooth(x), decimals=2), "quantized"),
        (lambda x: torch.round(30 * smooth(x)) / 3, "quantized"),
        (one_hot, "piecewise constant"),
        (tree, "piecewise constant"),
        (with_noise(1e-6), "random"),
        (with_noise(1e-3), "random"),
        (lambda x: torch.tensor([1.0, 2.0]), "constant"),
        (lambda x: x @ torch.tensor([1.0, 2.0, 3.0]).double(), "float64"),
        (lambda x: torch.relu(x - 5), "float64"),
        (lambda x: x.abs().sqrt(), "float64"),
    ],
)
def test_precision_is_told(f, kind):
    assert kind in kinds(look(f, X))


def test_a_float64_term_does_not_hide_the_noise_of_a_float32_one():
    # The shortest displacements see the float64 term alone.
    report = look(lambda x: smooth(x.float()).double() + x.sum(), X)
    assert report.noise > 1e-8
    assert report.breaks == ()
    assert report.advice.error < 1e-2


def test_an_integer_solver_is_piecewise_constant_also_on_an_edge():
    # Two choices are worth 9 there: the solver jumps at x itself.
    report = look(knapsack, torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert kinds(report) == {"piecewise constant"}
    assert "Gaussian(" in report.advice.code
    assert "piecewise constant" in str(report)


def test_digits_and_quantum_are_counted():
    assert look(printed(6), X).precision[0].digits == 6
    assert look(printed(3), X).precision[0].digits == 3
    cents = look(lambda x: torch.round(5 * smooth(x), decimals=2), X).precision[0]
    assert cents.quantum == pytest.approx(0.01)
    thirds = look(lambda x: torch.round(30 * smooth(x)) / 3, X).precision[0]
    assert thirds.quantum == pytest.approx(1 / 3)


@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_noise_is_measured(size):
    report = look(with_noise(size), X)
    assert not report.deterministic
    assert report.precision[0].noise == pytest.approx(size, rel=0.5)
    assert report.ok
    assert report.advice.error < 0.05


def test_a_function_that_is_all_noise_is_a_problem():
    report = look(with_noise(10.0), X)
    assert "the noise drowns every slope" in report.problems[0]
    rough = look(lambda x: torch.sin(1e9 * x), X)
    assert rough.problems[0] == "the noise drowns every slope: smooth the function"


def test_a_function_that_remembers_is_told_from_noise():
    calls = itertools.count()
    report = look(lambda x: x.sin() + 1e-3 * next(calls), X)
    assert report.remembers
    assert "remembers earlier calls" in report.problems[0]
    assert not look(with_noise(1e-3), X).remembers


def test_integer_results_have_no_derivative():
    report = look(lambda x: x.argmax(), X)
    assert kinds(report) == {"integer"}
    assert "return floating numbers" in report.notes[0]


# ---- jumps and kinks ----


@pytest.mark.parametrize(
    ("f", "kind", "distance", "size"),
    [
        (lambda x: x.abs().sum(), "kink", 0.0, 2.0),
        (lambda x: torch.relu(x) + x.sin(), "kink", 0.0, 1.0),
        (lambda x: (x - 0.003).abs().sum(), "kink", 0.003, 2.0),
        (lambda x: torch.exp(x) + 3 * torch.relu(-x - 0.02), "kink", -0.02, 3.0),
        (lambda x: x.sin() + (x >= 0), "jump", 0.0, 1.0),
        (lambda x: x.sin() + 2.0 * (x > 0.004), "jump", 0.004, 2.0),
        (lambda x: x.abs().sqrt(), "vertical tangent", 0.0, None),
    ],
)
def test_breaks_are_found_and_located(f, kind, distance, size):
    report = look(f, torch.tensor([0.0, 1.5]))
    (found,) = report.breaks
    assert (found.kind, found.input) == (kind, "x[0]")
    assert found.distance == pytest.approx(distance, abs=0.01 * abs(distance))
    if size is not None:
        assert found.size == pytest.approx(size, rel=0.4)
    # A kink or a jump beside x can be lived with, a jump at x cannot.
    assert report.ok == (kind == "kink" or distance != 0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.sin(1000 * x),
        lambda x: torch.exp(8 * x),
        lambda x: torch.tanh(50 * x),
        lambda x: x**3,
        lambda x: (x.float() ** 3).double(),
        printed(6),
        with_noise(1e-3),
        tree,
    ],
)
def test_steep_and_noisy_functions_have_no_breaks(f):
    assert look(f, X).breaks == ()


def test_slopes_that_do_not_add_up_are_not_differentiable():
    report = look(lambda x: x[0] * x[1] ** 2 / (x @ x + 1e-300), torch.zeros(2))
    assert "not differentiable here" in report.problems[0]
    edge = look(lambda x: (x[0] * x[1]).abs().sqrt(), torch.zeros(2))
    assert "single inputs change nothing" in edge.problems[0]
    assert look(lambda x: x[0] * x[1], torch.zeros(2)).ok


# ---- rows, points, dependence ----


def test_independent_rows_may_be_claimed():
    report = look(layer, ROWS, torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
    assert report.rows.batch_dims == "(0, None)"
    assert "batch_dims=(0, None)" in report.advice.code
    assert report.advice.cost == "n = 8 evaluations"


@pytest.mark.parametrize("f", [batch_norm, lambda x: x.cumsum(0), lambda x: x.flip(0).sin()])
def test_coupled_rows_may_not(f):
    report = look(f, ROWS)
    assert report.rows.batch_dims is None
    assert "batch_dims" not in report.advice.code


def test_rows_are_looked_at_where_the_function_is_defined():
    x = torch.ones(4, 2)
    above = look(lambda x: torch.where(x > 1, torch.nan, x.sin()), x)
    assert above.rows.batch_dims == "(0,)"

    def narrow(x):
        return torch.where((x - 1).abs() > 0.01, torch.nan, x.sin())

    for f in (narrow, differentiable(narrow, batch_dims=(0,))):
        report = look(f, x)
        assert report.rows.independent is None
        assert "cannot be told: points near x fail" in str(report)
        assert report.ok


def test_a_fixed_number_of_rows_may_not_be_claimed():
    report = look(lambda x: x * torch.arange(1.0, 6.0)[:, None], ROWS)
    assert report.rows.independent is False
    assert "batch_dims" not in report.advice.code


def test_a_false_claim_is_a_problem():
    report = look(differentiable(batch_norm, batch_dims=(0,)), ROWS)
    assert "`batch_dims=(0,)` is wrong" in report.problems[0]
    stacked = look(differentiable(lambda x: x - x.mean(), vectorized=True), X)
    assert any("`vectorized=True` is wrong" in problem for problem in stacked.problems)


def test_a_batch_of_labels_goes_with_the_rows():
    def f(x, label):
        return x[torch.arange(len(x)), label].sin()

    assert look(f, ROWS, torch.tensor([0, 1, 1, 0, 1])).rows.batch_dims == "(0, 0)"


def test_stacked_points_are_tried():
    assert "vectorized=True" in look(lambda x: (x**2).sum(-1), X).advice.code
    assert "vectorized" not in look(smooth, X).advice.code
    program = Command(["echo", "{x}"], parse=parse.regex(r"^.+$"))
    assert "vectorized" not in look(program, X[0]).advice.code  # it would loop over them


@pytest.mark.parametrize(
    ("f", "filled", "colors"),
    [
        (tridiagonal, 34, 3),
        (lambda x: torch.cat([x.sum()[None] ** 2, x[1:] * x[0]]), 34, 12),
        (lambda x: x.sin(), 12, 1),
        (lambda x: x.sin().sum(), 12, 12),
    ],
)
def test_the_pattern_is_seen_and_colored(f, filled, colors):
    report = look(f, torch.linspace(0.5, 2, 12))
    assert int(report.pattern.sum()) == filled
    assert report.colors == colors


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("repeats", [False, True])
def test_noise_is_no_entry_of_the_pattern(seed, repeats):
    generator = torch.Generator().manual_seed(seed)

    def f(x):
        if repeats:  # a number that depends on every input, and on nothing smoothly
            return x**2 + 1e-3 * torch.sin(1e12 * x.sum() + seed)
        return x**2 + 1e-3 * torch.randn(len(x), generator=generator, dtype=torch.float64)

    report = look(f, torch.linspace(0.5, 2, 12))
    assert np.array_equal(report.pattern, np.eye(12, dtype=bool))
    assert report.colors == 1


def test_inputs_are_colored_in_a_good_order():
    # Inputs 2i and 2j + 1 share an output unless i = j: two colors, and four in this order.
    pairs = [(2 * i, 2 * j + 1) for i in range(4) for j in range(4) if i != j]
    pattern = np.zeros((len(pairs), 8), bool)
    for row, pair in enumerate(pairs):
        pattern[row, list(pair)] = True
    assert colors_of(pattern) == 2
    assert colors_of(np.zeros((3, 4), bool)) == colors_of(np.zeros((3, 0), bool)) == 0


def test_unused_inputs_are_named():
    report = look(lambda x, y: x.sin() + 0 * y.sum(), X, torch.ones(2))
    assert report.unused == ("y[0]", "y[1]")


def test_many_inputs_are_sampled_within_the_budget():
    report = look(lambda x: x * x, torch.linspace(1, 2, 300))
    assert report.swept == 64
    assert report.evaluations <= 40 * 64 + 100
    assert report.pattern is None
    assert "64 of 300 inputs were looked at" in str(report)
    assert look(lambda x: x * x, torch.linspace(1, 2, 300), budget=300).evaluations <= 330


@pytest.mark.parametrize("f", [smooth, tridiagonal, one_hot, printed(6), with_noise(1e-3)])
def test_evaluations_stay_near_40_an_input_and_100(f):
    points = []

    def counted(x):
        points.append(len(x) if x.ndim == 2 else 1)  # three stacked ones are tried
        return f(x)

    report = look(counted, X)
    assert report.evaluations == sum(points) <= 40 * 3 + 110


# ---- the step sweep and the advice ----


def test_the_curve_is_a_v_with_its_floor_and_truncation():
    (curve,) = look(lambda x: x.sin().exp(), torch.tensor(0.7)).curves
    x, f = 0.7, math.exp(math.sin(0.7))
    third = f * (math.cos(x) ** 3 - 3 * math.sin(x) * math.cos(x) - math.cos(x))
    slope = f * math.cos(x)
    assert curve.truncation == pytest.approx(abs(third / 6 / slope), rel=0.1)
    assert curve.slope.item() == pytest.approx(slope, rel=1e-9)
    assert 1e-6 < curve.chosen < 1e-4
    assert np.all(curve.errors[:4] < 100 * curve.floor / curve.steps[:4])
    assert curve.errors[-1] > 1e6 * curve.error


def test_what_is_recommended_is_what_runs():
    names = {"suture": suture, "torch": torch}
    cases = {"printed": printed(6), "tree": tree, "smooth": smooth, "sine": torch.sin}
    for name, f in cases.items():
        report = look(differentiable(f, name=name), X)
        wrapped = eval(report.advice.code, {**names, name: f})
        x = X.clone().requires_grad_()
        wrapped(x).sum().backward()
        assert x.grad.isfinite().all()
        if name != "tree":
            exact = torch.autograd.functional.jacobian(
                lambda x, name=name: (torch.sin if name == "sine" else smooth)(x).sum(), X.double()
            )
            torch.testing.assert_close(x.grad.double(), exact, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        FiniteDifference(),
        FiniteDifference(rtol=1e-9),
        FiniteDifference(stencils.CENTRAL),
        FiniteDifference(stencils.central(4), noise=1e-9),
        FiniteDifference(step=1e-4),
    ],
)
def test_the_step_that_is_marked_is_the_one_that_is_taken(method):
    seen = []

    def f(x):
        seen.append(x)
        return smooth(x)

    trial = look(differentiable(f, method=method), X).advice.trial
    g, x = differentiable(f, method=method), X.clone().requires_grad_()
    for _ in range(2):  # the first one may calibrate
        seen.clear()
        g(x).sum().backward()
    farthest = (torch.stack(seen) - X.double()).abs().max(dim=0).values
    assert trial.steps == pytest.approx(farthest.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        FiniteDifference(),
        FiniteDifference(step=0.0012345678),
        FiniteDifference(noise=3e-4, rtol=0.01),
        FiniteDifference(stencils.richardson(3)),
        FiniteDifference(stencils.central(8)),
        FiniteDifference(stencils.CENTRAL, suture.directions.Gaussian(16), step=0.1),
        FiniteDifference(directions=suture.directions.Orthogonal(4, recovery="least_squares")),
        suture.AdaptiveDifference(),
        suture.AdaptiveDifference(1e-6, suture.directions.Rademacher(3)),
    ],
)
def test_what_is_written_makes_the_method_again(method):
    assert eval(written(method), {"suture": suture}) == method


def test_a_slope_that_begins_farther_away_is_none():
    report = look(torch.relu, torch.tensor([-0.05, 1.0]))
    assert [curve.column for curve in report.curves] == [1]


def test_unlike_lengths_in_one_vector_get_a_scale():
    def f(x):
        return torch.sin(x[0] * 1e9) + torch.cos(x[1] * 1e-9)

    report = look(f, torch.tensor([2e-9, 3e9]))
    assert "scale=(torch.tensor([" in report.advice.code
    assert report.advice.error < 1e-6
    apart = look(lambda a, b: torch.sin(a * 1e9) + torch.cos(b * 1e-9), *report_inputs())
    assert "scale" not in apart.advice.code
    assert apart.advice.error < 1e-6


def report_inputs():
    return torch.tensor(2e-9), torch.tensor(3e9)


def test_functions_of_arrays_and_of_float32_weights_are_understood():
    assert 'interface="numpy"' in look(lambda x: x.astype(float) ** 2, X).advice.code
    linear = torch.nn.Linear(3, 2).requires_grad_(False)
    assert "dtype=None" in look(linear, X).advice.code


def test_complex_nested_and_empty_arguments():
    report = look(lambda z: (z * z.conj()).real + z.imag, torch.tensor([1 + 2j, 0.5 - 1j]))
    assert report.ok
    assert report.n == 4
    assert {curve.name for curve in report.curves} >= {"z[0].real", "z[1].imag"}
    nested = look(lambda d: {"a": d["x"].sin(), "b": (d["y"] * d["x"].sum(),)}, {"x": X, "y": X[0]})
    assert [entry.name for entry in nested.precision] == ["result['a']", "result['b'][0]"]
    assert look(torch.sin, torch.zeros(0)).ok
    assert look(lambda x, k: x[k].sin(), X, torch.tensor([0, 2, 2, 1])).ok
    assert look(lambda x, *, shift: x.sin() + shift, X, shift=X).n == 6


def test_a_function_that_writes_into_its_arguments_sees_copies():
    def f(x):
        x *= 2
        return x.sin()

    x = X.clone()
    assert look(f, x).ok
    assert torch.equal(x, X)


# ---- wrong step, not differentiable, wrong rule ----


def test_a_wrong_step_is_told():
    single = differentiable(
        lambda x: smooth(x.float()).double(),
        method=FiniteDifference(stencils.FORWARD, step=1e-8),
    )
    report = look(single, X)
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the step is wrong")
    assert "step=1e-08" in report.problems[0]
    assert "step=" not in report.advice.code
    long = differentiable(lambda x: torch.sin(50 * x), method=FiniteDifference(step=0.2))
    assert look(long, X).problems[0].startswith("the step is wrong")
    for good in (FiniteDifference(stencils.CENTRAL), suture.AdaptiveDifference()):
        report = look(differentiable(smooth, method=good), X)
        assert report.ok
        assert type(good).__name__ in report.advice.code
    assert report.advice.cost == "as many evaluations as it takes"


def square(x):
    return x * x


def rule(change):
    def vjp(args, output, cotangent):
        gradient = 2 * args[0] * cotangent
        change(gradient)
        return (gradient,)

    return differentiable(square, method=CustomVJP(vjp))


def test_a_right_rule_is_right():
    report = look(rule(lambda g: None), X)
    assert report.ok
    assert report.wrong == ()
    assert report.advice.code.startswith("suture.differentiable(square, method=suture.CustomVJP(")


def test_a_wrong_factor_is_told():
    report = look(rule(lambda g: g.mul_(2)), X)
    assert [entry.input for entry in report.wrong] == ["x[0]", "x[1]", "x[2]"]
    assert all(entry.ratio == pytest.approx(2) for entry in report.wrong)
    assert "(a factor of 2)" in report.problems[0]
    assert look(rule(lambda g: g.mul_(1.001)), X).wrong


def test_a_wrong_sign_in_one_input_is_told():
    (entry,) = look(rule(lambda g: g[1].neg_()), X).wrong
    assert entry.input == "x[1]"
    assert entry.ratio == pytest.approx(-1)


def test_a_wrong_input_outside_of_the_sample_is_told():
    report = look(rule(lambda g: g[150].neg_()), torch.linspace(1, 2, 300))
    assert "not displaced by itself" in report.problems[0]


def test_a_rule_that_fails_is_told_and_one_at_a_kink_is_not_blamed():
    def fails(args, output, cotangent):
        raise ValueError("no")

    report = look(differentiable(square, method=CustomVJP(fails)), X)
    assert "raised ValueError: no" in report.problems[0]

    def subgradient(args, output, cotangent):
        return (torch.sign(args[0]) * cotangent,)

    kink = look(differentiable(torch.abs, method=CustomVJP(subgradient)), torch.tensor([0.0, 1.0]))
    assert kink.ok
    assert [entry.kind for entry in kink.breaks] == ["kink"]


def test_a_wrong_jvp_is_told():
    def vjp(args, output, cotangent):
        return (2 * args[0] * cotangent,)

    for factor, ok in ((2, True), (3, False)):

        def jvp(args, output, tangents, factor=factor):
            return factor * args[0] * tangents[0]

        report = look(differentiable(square, method=CustomVJP(vjp, jvp)), X)
        assert report.ok == ok
    assert "`jvp`" in report.problems[0]


# ---- failures ----


def test_what_the_function_does_is_never_raised():
    def raises(x):
        raise RuntimeError("never")

    def exits(x):
        sys.exit(3)

    for f in (raises, exits, 5, lambda: X, lambda x: "text", lambda x: x.log()):
        report = look(f, X)
        assert not report.ok
        assert report.advice is None
    held = torch.ones(3, requires_grad=True)
    assert "requires grad" in look(lambda x: x * held, X).problems[0]
    assert "cannot be called like this" in look(smooth, X, y=3).problems[0]


def test_a_point_that_fails_far_away_is_a_finding():
    def f(x):
        if x[0] > 0.75:
            raise ValueError("too big")
        return smooth(x)

    report = look(f, X)
    assert report.ok
    assert "ValueError: too big" in report.failures[0].message
    assert "failures" in str(report)


def test_one_side_is_enough():
    report = look(lambda x: torch.where(x > 1, torch.nan, x.sin()), torch.tensor([1.0, 0.5]))
    assert report.ok
    assert "right above x fail" in report.notes[0]
    assert report.advice.error < 1e-3
    both = look(lambda x: torch.where(x == 1, x, torch.nan), torch.tensor([1.0]))
    assert "fails on both sides" in both.problems[0]
    assert kinds(both) == {"unknown"}
    assert both.notes == ()


def test_a_function_that_fails_at_random_is_told():
    calls = itertools.count()
    report = look(lambda x: x.sin() if next(calls) % 3 else x / 0, X)
    assert "fails at x itself in some calls" in report.problems[0]


def test_bounds_are_never_crossed():
    seen = []

    def f(x):
        seen.append(x.clone())
        return x.sin()

    report = look(differentiable(f, bounds=((0.5, 2.0),)), torch.tensor([0.5, 1.0, 2.0]))
    points = torch.cat([x.flatten() for x in seen])
    assert points.min() >= 0.5
    assert points.max() <= 2.0
    assert report.ok
    assert "bounds=((0.5, 2.0),)" in report.advice.code


def test_random_numbers_are_left_alone_and_reports_repeat():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = look(smooth, X), look(smooth, X)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.advice == second.advice
    assert first.agreement == second.agreement


# ---- showing it ----


def test_check_prints_the_report_and_returns_it(capsys):
    report = suture.check(smooth, X)
    printed_text = capsys.readouterr().out
    assert [line.strip() for line in printed_text.splitlines() if line.strip()] == [
        line.strip() for line in str(report).splitlines() if line.strip()
    ]
    assert "\x1b" not in printed_text
    assert repr(report) == f"<check of smooth: fine, {report.evaluations} evaluations>"


def test_lines_fit_into_80_columns():
    for f in (smooth, tree, batch_norm, with_noise(1e-3)):
        text = str(look(f, ROWS if f is batch_norm else X))
        assert max(map(len, text.splitlines())) <= 80
        for word in ("repeatable", "precision", "jumps, kinks", "dependence", "differentiable("):
            assert word in text


def test_the_figure_is_drawn(tmp_path, monkeypatch):
    figure = look(tridiagonal, torch.linspace(0.5, 2, 12)).plot()
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {
        "measured error",
        "noise floor, ∝ 1/h",
        "truncation, ∝ h²",
        "best step",
        "step of the recommended call",
    }
    assert len([axes for axes in figure.axes if axes.lines]) == 5
    figure.savefig(tmp_path / "check.png")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    look(lambda x: torch.ones(1), torch.tensor(1.0)).plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="matplotlib is not installed"):
        look(smooth, X).plot()


# ---- the command ----

MODULE = """
import torch
from suture import CustomVJP, differentiable

def simulate(x, w=1.0):
    return x.sin() * w

wrong = differentiable(torch.sin, method=CustomVJP(lambda a, o, c: (3 * a[0].cos() * c,)))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "simulator_for_check.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("simulator_for_check", None)


def run(*words):
    return CliRunner().invoke(app, ["check", *words])


def test_the_command_says_what_to_write(folder):
    result = run("simulator_for_check:simulate", "--args", "[1.0, 2.0]", "--plot", "p/check.png")
    assert result.exit_code == 0
    assert "suture.differentiable(simulate, batch_dims=(0,))" in result.output
    assert (folder / "p" / "check.png").stat().st_size > 1000
    assert run("simulator_for_check:wrong", "--args", "[1.0, 2.0]").exit_code == 1


def test_arguments_come_from_literals_and_files(folder):
    torch.save(torch.ones(2), "x.pt")
    np.save("y.npy", np.ones(2))
    (folder / "z.json").write_text('{"a": [1, 2], "mode": "fast"}')
    x, y, z, four = command.arguments(["x.pt", "y.npy", "z.json", "4"])
    assert x.dtype == torch.float32
    assert y.dtype == torch.float64
    assert torch.equal(z["a"], torch.tensor([1.0, 2.0]).double())
    assert z["mode"] == "fast"
    assert four == 4
    words = ("simulator_for_check:simulate", "--args", "([1, 2, 3], 2.5)", "--batch-dims")
    assert run(*words, "(0, None)", "--interface", "torch", "--budget", "300").exit_code == 0


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("simulate",), "`simulate` does not name a function."),
        (("no_such_module_here:f",), "`no_such_module_here:f` cannot be imported"),
        (("simulator_for_check:nothing",), "`simulator_for_check:nothing` cannot be imported"),
        (("simulator_for_check:__name__",), "`simulator_for_check:__name__` is 'simulator"),
        (("simulator_for_check:f", "--plot", "a.xyz"), "`--plot a.xyz` cannot be saved."),
        (("simulator_for_check:simulate", "--args", "[1,"), "`--args [1,` is no Python literal."),
        (("simulator_for_check:simulate", "--args", "no.pt"), "`--args no.pt` cannot be read"),
    ],
)
def test_a_word_that_makes_no_sense_is_answered_in_three_lines(folder, words, start):
    error = run(*words).exception
    assert isinstance(error, MethodError)
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(start)


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        ("simulator_for_check:simulat", "Write `suture check simulator_for_check:simulate`."),
        ("simulator_for_check.py:simulate", "`suture check simulator_for_check:simulate`, without"),
        ("./a/b.py:simulate", "`suture check a.b:simulate`, without `.py`."),
    ],
)
def test_a_target_that_is_misspelt_is_answered_with_the_likely_one(folder, target, fix):
    assert fix in str(run(target).exception).splitlines()[2]


@pytest.mark.parametrize("budget", [0, "many", 2.5])
def test_a_budget_is_a_number_of_evaluations(budget):
    with pytest.raises(MethodError, match=r"`check\(budget=.*` is not possible"):
        suture.check(smooth, X, budget=budget)


def test_what_was_evaluated_once_is_not_called_repeatable():
    report = look(lambda x: x, torch.tensor([1, 2]))
    assert report.evaluations == 1
    assert "repeatable" not in str(report)


def test_flat_outputs_beside_one_of_many_levels_are_smoothed():
    report = look(lambda x: (5 * x).floor() / 5, torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64))
    assert {entry.kind for entry in report.precision} == {"piecewise constant", "quantized"}
    assert "Gaussian(" in report.advice.code
    assert report.advice.code.startswith("suture.differentiable(f, ")


def test_rows_beside_which_points_fail_cannot_be_told():
    def fn(x):
        return x**2 if x[0] == 0.3 else x * torch.nan

    report = look(fn, torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert report.rows.independent is None
    assert "cannot be told: points near x fail" in str(report)


def test_the_pattern_of_one_output_counts_in_whole_numbers():
    axes = look(lambda x: x.sin().sum(), torch.tensor([0.3, 0.7])).plot().axes[2]
    assert all(tick == round(tick) for tick in axes.get_yticks())
