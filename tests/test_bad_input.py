"""Everything that a user may get wrong: one error or warning each, that names their layer or option and says what to
do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ffebm_compiler as fc


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


class Branching(nn.Module):
    """Control flow on a value: neither tracer follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return x


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        return self.fc(self.fc(x)) if twice else self.fc(x)


def with_nan() -> nn.Module:
    bad = net()
    with torch.no_grad():
        bad[3].weight[0, 0] = float("nan")
    return bad


CONVERSIONS: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    # name: (what is done, error, what the message names, what it advises)
    "a function": (lambda: fc.convert(torch.relu), fc.OptionError, "model", "torch.nn.Module"),
    "a class": (lambda: fc.convert(nn.Linear), fc.OptionError, "class Linear", "Make one"),
    "a script": (
        lambda: fc.convert(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))),
        fc.OptionError,
        "TorchScript",
        "nn.Module",
    ),
    "a converted model": (
        lambda: fc.convert(fc.convert(net())),
        fc.OptionError,
        "is converted already",
        "to_feedforward()",
    ),
    "a wrapped model": (
        lambda: fc.convert(nn.DataParallel(net())),
        fc.OptionError,
        "wrapped in DataParallel",
        "model.module",
    ),
    "a compiled model": (
        lambda: fc.convert(torch.compile(net())),
        fc.OptionError,
        "wrapped in OptimizedModule",
        "model._orig_mod",
    ),
    "control flow": (lambda: fc.convert(Branching()), fc.TraceError, "Branching", "example_inputs="),
    "control flow, exported": (
        lambda: fc.convert(Branching(), example_inputs=torch.ones(2, 6)),
        fc.TraceError,
        "torch.export",
        "digital=",
    ),
    "block_size 0": (lambda: fc.convert(net(), block_size=0), fc.OptionError, "block_size: is 0", "whole number"),
    "block_size '2'": (lambda: fc.convert(net(), block_size="2"), fc.OptionError, "block_size: is '2'", "whole number"),
    "block_size 2.5": (lambda: fc.convert(net(), block_size=2.5), fc.OptionError, "block_size: is 2.5", "whole number"),
    "block_size True": (
        lambda: fc.convert(net(), block_size=True),
        fc.OptionError,
        "block_size: is True",
        "whole number",
    ),
    "both sizes": (
        lambda: fc.convert(net(), 2, block_sizes=[2]),
        fc.OptionError,
        "block_size and block_sizes",
        "Give one",
    ),
    "no sizes": (lambda: fc.convert(net(), block_sizes=[]), fc.OptionError, "block_sizes", "one size a block"),
    "a size of 0": (lambda: fc.convert(net(), block_sizes=[1, 0]), fc.OptionError, "block_sizes[1]", "whole number"),
    "too few sizes": (lambda: fc.convert(net(), block_sizes=[1]), fc.OptionError, "model forms 3", "one size a block"),
    "too many sizes": (lambda: fc.convert(net(), block_sizes=[1, 2, 2]), fc.OptionError, "model forms 2", "explain"),
    "a typo in digital": (
        lambda: fc.convert(conv_net().append(nn.Module()), digital=["conv1"]),
        fc.OptionError,
        "no layer 'conv1'",
        "Known names",
    ),
    "a near miss": (
        lambda: fc.convert(
            nn.Sequential(__import__("collections").OrderedDict(conv1=nn.Linear(2, 2))), digital=["conv"]
        ),
        fc.OptionError,
        "'conv'",
        'Did you mean "conv1"?',
    ),
    "a typo in analog": (
        lambda: fc.convert(net(), analog=["33"]),
        fc.OptionError,
        "option analog",
        'Did you mean "3"?',
    ),
    "digital as a string": (
        lambda: fc.convert(net(), digital="3"),
        fc.OptionError,
        "is the string '3'",
        "digital=['3']",
    ),
    "digital as a number": (
        lambda: fc.convert(net(), digital=3),
        fc.OptionError,
        "option digital",
        "list of layer names",
    ),
    "a module in digital": (
        lambda: fc.convert(net(), digital=[nn.Linear(2, 2)]),
        fc.OptionError,
        "holds",
        "by their path",
    ),
    "a predicate of one": (
        lambda: fc.convert(net(), digital=lambda name: True),
        fc.OptionError,
        "does not take (name, module)",
        "lambda name, module",
    ),
    "an impossible insistence": (
        lambda: fc.convert(net(), analog=["2"]),
        fc.PartitionError,
        "layer 2",
        "Remove it from analog=",
    ),
    "an activation at size 1": (
        lambda: fc.convert(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.AvgPool1d(2), nn.Tanh()), 1, analog=["3"]),
        fc.PartitionError,
        "layer 3",
        "Remove it",
    ),
    "digital and analog": (
        lambda: fc.convert(net(), digital=["3"], analog=["3"]),
        fc.PartitionError,
        "both digital= and analog=",
        "one of them",
    ),
    "a typo in norm": (
        lambda: fc.convert(net(), norm="hold"),
        fc.OptionError,
        "option norm: is 'hold'",
        'Did you mean "held"?',
    ),
    "a negative loop gain": (
        lambda: fc.convert(net(), loop_gain=-1.0),
        fc.OptionError,
        "loop_gain: is -1.0",
        "positive number",
    ),
    "a loop gain of nan": (
        lambda: fc.convert(net(), loop_gain=float("nan")),
        fc.OptionError,
        "loop_gain: is nan",
        "positive number",
    ),
    "tolerance 0": (lambda: fc.convert(net(), tolerance=0.0), fc.OptionError, "tolerance: is 0.0", "between 0 and 1"),
    "max_sweeps 0": (lambda: fc.convert(net(), max_sweeps=0), fc.OptionError, "max_sweeps: is 0", "whole number"),
    "max_sweeps None": (
        lambda: fc.convert(net(), max_sweeps=None),
        fc.OptionError,
        "max_sweeps: is None",
        "whole number",
    ),
    "an estimator class": (
        lambda: fc.convert(net(), estimator=fc.CenteredEP),
        fc.OptionError,
        "is the class CenteredEP",
        "fc.CenteredEP()",
    ),
    "an estimator's name": (
        lambda: fc.convert(net(), estimator="ep"),
        fc.OptionError,
        "estimator: is 'ep'",
        "fc.CenteredEP()",
    ),
    "a nudge of 0": (lambda: fc.CenteredEP(beta=0), fc.OptionError, "beta of CenteredEP", "positive number"),
    "a nudge of nan": (
        lambda: fc.OneSidedEP(beta=float("nan")),
        fc.OptionError,
        "beta of OneSidedEP",
        "positive number",
    ),
    "a sign of 2": (lambda: fc.OneSidedEP(sign=2), fc.OptionError, "sign of OneSidedEP", "+1 or -1"),
    "no perturbations": (lambda: fc.SPSA(samples=0), fc.OptionError, "samples of SPSA", "positive number"),
    "no unrolled sweeps": (lambda: fc.Unrolled(sweeps=0), fc.OptionError, "sweeps of Unrolled", "positive number"),
    "weights of nan": (lambda: fc.convert(with_nan()), fc.OptionError, "parameter 3.weight: has 1 of 64", "checkpoint"),
    "lazy weights": (
        lambda: fc.convert(nn.Sequential(nn.LazyLinear(3))),
        fc.OptionError,
        "parameter 0.weight",
        "Run the model once",
    ),
    "complex weights": (
        lambda: fc.convert(nn.Linear(2, 2, dtype=torch.complex64)),
        fc.OptionError,
        "parameter weight: is complex",
        "real layers",
    ),
    "meta weights": (
        lambda: fc.convert(nn.Linear(2, 2, device="meta")),
        fc.OptionError,
        "meta device",
        "Load the weights",
    ),
    "examples that are text": (
        lambda: fc.convert(net(), example_inputs="x"),
        fc.OptionError,
        "example_inputs",
        "Give tensors",
    ),
    "examples of a wrong shape": (
        lambda: fc.convert(net(), example_inputs=torch.ones(2, 5)),
        fc.InputError,
        "layer 0 (Linear",
        "shape",
    ),
    "rules that are none": (lambda: fc.convert(net(), rules=[nn.ReLU]), fc.OptionError, "option rules", "rules.Rule"),
    "rules that are no list": (lambda: fc.convert(net(), rules=3), fc.OptionError, "option rules: is 3", "list"),
    "explain has the same eyes": (
        lambda: fc.explain(net(), block_size=0, norm="x"),
        fc.OptionError,
        "block_size",
        "whole number",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVERSIONS)
def test_a_bad_conversion_names_the_option_and_the_remedy(case: str) -> None:
    act, error, names, advises = CONVERSIONS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(error) as caught:
            act()
    assert isinstance(caught.value, fc.FFEBMError)
    assert names in str(caught.value)
    assert advises in str(caught.value)


def _model(block_size: int = 2, **options: object) -> fc.FFEBM:
    return fc.convert(net(), block_size, **options)  # type: ignore[arg-type]


CALLS: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    "input of nan": (
        lambda: _model()(torch.full((2, 6), float("nan"))),
        fc.InputError,
        "input input: has 12 values",
        "Clean the data",
    ),
    "input of infinity": (
        lambda: _model()(torch.full((2, 6), float("inf"))),
        fc.InputError,
        "NaN or infinite",
        "Clean the data",
    ),
    "an empty batch": (
        lambda: _model()(torch.ones(0, 6)),
        fc.InputError,
        "is empty, shape (0, 6)",
        "at least one sample",
    ),
    "a wrong width": (lambda: _model()(torch.ones(2, 5)), fc.InputError, "layer 0 (Linear", "given (2, 5) float32"),
    "a wrong width at block size 1": (
        lambda: _model(1)(torch.ones(2, 5)),
        fc.InputError,
        "layer 0 (Linear",
        "Check the shape",
    ),
    "a wrong image": (
        lambda: fc.convert(conv_net())(torch.ones(2, 3, 9, 9)),
        fc.InputError,
        "layer 5 (Linear",
        "Check the shape",
    ),
    "another type": (
        lambda: _model()(torch.ones(2, 6, dtype=torch.float64)),
        fc.InputError,
        "is torch.float64, the model torch.float32",
        "input.to(torch.float32)",
    ),
    "another device": (
        lambda: _model()(torch.ones(2, 6, device="meta")),
        fc.InputError,
        "is on meta, the model on cpu",
        "Move one",
    ),
    "no argument": (lambda: _model()(), fc.InputError, "call of Sequential", "forward(input)"),
    "an argument too many": (
        lambda: _model()(torch.ones(2, 6), torch.ones(2, 6)),
        fc.InputError,
        "call of Sequential",
        "forward(input)",
    ),
    "another flag": (
        lambda: fc.convert(Flagged())(torch.ones(2, 6), twice=True),
        fc.InputError,
        "'twice' was False",
        "example_inputs=",
    ),
    "comparing what is not converted": (
        lambda: fc.compare_gradients(net(), torch.ones(2, 6), torch.ones(2).long(), F.cross_entropy),
        fc.OptionError,
        "is a Sequential",
        "Convert it first",
    ),
    "a loss that is not a scalar": (
        lambda: fc.compare_gradients(_model(), torch.ones(2, 6), None, lambda o, y: o),
        fc.InputError,
        "returned (2, 3)",
        "scalar",
    ),
    "a loss without history": (
        lambda: fc.compare_gradients(_model(), torch.ones(2, 6), None, lambda o, y: o.detach().sum()),
        fc.InputError,
        "does not depend",
        "detach()",
    ),
    "nothing to compare": (
        lambda: fc.compare_gradients(_model().requires_grad_(False), torch.ones(2, 6), None, lambda o, y: o.sum()),
        fc.OptionError,
        "no parameter that requires grad",
        "requires_grad_()",
    ),
    "a bad option in using": (
        lambda: _model().using(loop_gain=-1).__enter__(),
        fc.OptionError,
        "option loop_gain: is -1",
        "positive number",
    ),
    "an estimator class in using": (
        lambda: _model().using(estimator=fc.Implicit).__enter__(),
        fc.OptionError,
        "is the class Implicit",
        "fc.Implicit()",
    ),
    "a script into nowhere": (
        lambda: _model().write_training_loop("/nonexistent/folder/train.py"),
        fc.OptionError,
        "/nonexistent/folder does not exist",
        "mkdir -p",
    ),
    "a script over a folder": (lambda: _model().write_training_loop("/"), fc.OptionError, "is a folder", "Name a file"),
    "a picture of an unknown kind": (lambda: _model().draw("graph.gif"), fc.OptionError, "graph.gif", ".svg"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_names_the_input_or_layer_and_the_remedy(case: str) -> None:
    act, error, names, advises = CALLS[case]
    with pytest.raises(error) as caught:
        act()
    assert names in str(caught.value)
    assert advises in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(fc.OptionError) as caught:
        fc.convert(with_nan(), block_size=0, norm="x", loop_gain=-1, digital="3", estimator=fc.CenteredEP, max_sweeps=0)
    assert len(caught.value.problems) == 7
    for option in ("3.weight", "block_size", "norm", "loop_gain", "digital", "estimator", "max_sweeps"):
        assert option in str(caught.value)


def test_several_bad_inputs_at_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.fc(left + right)

    with pytest.raises(fc.InputError) as caught:
        fc.convert(Two())(torch.full((2, 6), float("nan")), torch.ones(2, 6).double())
    assert "left" in str(caught.value)
    assert "right" in str(caught.value)


def test_a_diverging_block_warns_with_its_name() -> None:
    torch.manual_seed(0)
    strong = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        for p in strong.parameters():
            p.mul_(20)
    model = fc.convert(strong, block_size=3, loop_gain=None)
    with pytest.warns(
        fc.ConvergenceWarning,
        match=r"block1 \(1 … 4\) diverged in its free phase .* Bound the feedback with loop_gain=",
    ):
        model(torch.randn(4, 6))
    assert not model.relaxation[0].converged
    assert model.relaxation[0].residual == float("inf")


def test_too_few_sweeps_warn_with_the_residual() -> None:
    model = fc.convert(net(), block_size=2, max_sweeps=1, loop_gain=0.2)
    with pytest.warns(fc.ConvergenceWarning, match=r"block2 .* did not converge .* after 1 sweeps. Raise max_sweeps="):
        model(torch.randn(4, 6))
    assert not model.relaxation[1].converged


def test_a_diverging_block_trains_no_further_in_silence() -> None:
    model = fc.convert(net(), block_size=2, max_sweeps=1, loop_gain=0.2)
    with pytest.warns(fc.ConvergenceWarning) as caught:
        model(torch.randn(4, 6)).sum().backward()
    assert [("free phase" in str(w.message), "nudged phase" in str(w.message)) for w in caught] == [
        (True, False),
        (False, True),
    ]
    with pytest.warns(fc.ConvergenceWarning) as caught, model.using(estimator=fc.CenteredEP()):
        model(torch.randn(4, 6)).sum().backward()
    assert ["nudged phase" in str(w.message) for w in caught] == [False, True, True]


def test_weights_that_turned_nan_are_named() -> None:
    model = fc.convert(net(), block_size=2)
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = float("nan")
    with pytest.warns(fc.ConvergenceWarning, match=r"The weights 3.weight are not finite"):
        model(torch.randn(4, 6))


def test_frozen_parameters_warn_at_conversion() -> None:
    with pytest.warns(fc.GradientWarning, match=r"Every parameter of Sequential is frozen"):
        fc.convert(net().requires_grad_(False))


def test_some_frozen_parameters_do_not_warn_and_get_no_gradient() -> None:
    frozen = net()
    frozen[3].requires_grad_(False)
    model = fc.convert(frozen)
    model(torch.randn(4, 6)).sum().backward()
    assert model.get_parameter("3.weight").grad is None
    assert model.get_parameter("5.weight").grad is not None


def test_no_parameters_warn() -> None:
    with pytest.warns(fc.GradientWarning, match="no parameters"):
        model = fc.convert(nn.Sequential(nn.ReLU(), nn.Flatten()))
    assert model.blocks == ()
    assert torch.equal(model(torch.ones(2, 3)), torch.ones(2, 3))


def test_a_state_dict_of_another_model_is_refused_with_its_keys() -> None:
    with pytest.raises(RuntimeError, match=r"3\.weight"):
        _model().load_state_dict(nn.Sequential(nn.Linear(6, 8)).state_dict())


def test_a_script_over_an_unwritable_path_leaves_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "file"
    target.write_text("mine")
    with pytest.raises(fc.OptionError):
        _model().write_training_loop(target / "train.py")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "mine"
