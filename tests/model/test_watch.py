"""What is changed after conversion: it works, or the next call names it."""

from __future__ import annotations

import copy
import cProfile
import pickle
import pstats
import re
import types
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import ffebm_compiler as fc
from ffebm_compiler.errors import ChangedError
from ffebm_compiler.model.converted_module import runner_of


class Config:
    """A configuration object, as many libraries have."""

    def __init__(self) -> None:
        self.scale, self.note = 2.0, "nobody reads it"


class Slotted:
    """One that keeps its attributes in slots, as ``dataclass(slots=True)`` and attrs do."""

    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 2.0


class Inherits:
    """What a base class has and a class may override."""

    span = 3.0

    def widened(self, y: Tensor) -> Tensor:
        return y * self.span


class Inner(nn.Module):
    """A container that is traced through, its lists iterated."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.order = [0, 1]
        self.act: Any = torch.tanh

    def forward(self, h: Tensor) -> Tensor:
        for i in self.order:
            h = self.act(self.layers[i](h))
        return h * self.config.scale


class Net(Inherits, nn.Module):
    """A layer in a block, one that is digital, a container, an alias, attributes that are read, and some that
    are not.
    """

    limit = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.drop = nn.Linear(4, 8), nn.LeakyReLU(0.1), nn.Dropout(0.0)
        self.norm = nn.LayerNorm(8)
        self.inner = Inner(Config())
        self.b = nn.Linear(8, 8)
        self.again = self.b
        self.out = nn.Sequential(nn.Hardtanh(), nn.Linear(8, 3))
        self.tau, self.adapters, self.epoch, self.cut = 1.0, True, 0, np.arange(3.0)
        self.namespace, self.slotted, self.table = SimpleNamespace(gain=1.0), Slotted(), np.arange(70_000.0)
        self.register_buffer("shift", torch.zeros(3))

    def scaled(self, y: Tensor) -> Tensor:
        return y / self.tau

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(self.norm(self.drop(self.act(self.a(x)))))
        h = self.again(torch.relu(self.b(h)))
        if hasattr(self, "extra") or not self.adapters:
            return x
        y = self.scaled(self.out(h)).clamp(-self.limit, self.limit) + self.shift
        y = self.widened(y) * self.slotted.scale + float(self.table[-1])
        return y * self.namespace.gain + float(self.cut[1])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _set(path: str, value: Any) -> Callable[[nn.Module], None]:
    """A change: ``owner.name = value``; a function makes the value."""

    def change(model: nn.Module) -> None:
        owner_path, _, name = path.rpartition(".")
        owner: Any = model
        for part in filter(None, owner_path.split(".")):
            owner = getattr(owner, part)
        setattr(owner, name, value() if isinstance(value, (types.FunctionType, type)) else value)

    return change


def _call(path: str, method: str, *args: Any) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        owner: Any = model
        for part in path.split("."):
            owner = getattr(owner, part)
        getattr(owner, method)(*args)

    return change


def hook(*args: Any) -> None:
    return None


def _no_cut(model: nn.Module) -> None:
    model.cut[1] = 5.0  # type: ignore[index, operator]


def _delete(model: nn.Module) -> None:
    del model.tau


def _cap(model: nn.Module) -> None:
    model.limit = 0.01  # type: ignore[assignment]


NAMED: dict[str, tuple[Callable[[Any], None], str]] = {
    "an attribute": (_set("tau", 0.1), r"attribute tau of Net: was 1\.0 at conversion and is 0\.1 now"),
    "a switch": (_set("adapters", False), r"attribute adapters of Net: was True"),
    "one of the class": (_cap, r"attribute limit of Net: was 3\.0 at conversion and is 0\.01 now"),
    "a deleted one": (_delete, r"attribute tau of Net: was 1\.0 at conversion and is missing now"),
    "one that was looked for": (_set("extra", 1), r"attribute extra of Net: was missing at conversion and is 1 now"),
    "an array": (_no_cut, r"attribute cut of Net"),
    "a large array": (lambda m: m.table.__setitem__(-1, 5.0), r"attribute table of Net"),
    "another large array": (_set("table", lambda: np.zeros(70_000)), r"attribute table of Net"),
    "one in a slot": (
        _set("slotted.scale", 3.0),
        r"attribute slotted\.scale of Net: was 2\.0 at conversion and is 3\.0 now",
    ),
    "a namespace": (_set("namespace.gain", 2.0), r"attribute namespace of Net"),
    "a configuration": (
        _set("inner.config.scale", 3.0),
        r"attribute inner\.config\.scale of Net: was 2\.0 at conversion and is 3\.0 now",
    ),
    "another configuration": (_set("inner.config", SimpleNamespace(scale=2.0)), r"layer inner: config was a Config"),
    "a list": (
        _call("inner.order", "append", 0),
        r"layer inner: order was \[0, 1\] at conversion and is \[0, 1, 0\] now",
    ),
    "a function": (_set("inner.act", lambda: torch.relu), r"layer inner: act was tanh at conversion and is relu now"),
    "a list of layers": (
        _call("inner.layers", "append", nn.Linear(8, 8)),
        r"layer inner\.layers: had the layers 0, 1 at conversion and has 0, 1, 2 now",
    ),
    "a sequence of layers": (_call("out", "append", nn.Linear(3, 3)), r"layer out: had the layers 0, 1 "),
    "the option of a layer in a block": (
        _set("act.negative_slope", 0.9),
        r"layer act: negative_slope was 0\.1 at conversion and is 0\.9 now",
    ),
    "the option of a layer in a sequence": (_set("out.0.max_val", 0.2), r"layer out\.0: max_val was 1\.0"),
    "the class of a layer in a block": (
        _set("act", nn.Tanh),
        r"layer act: was a LeakyReLU at conversion and is a Tanh now",
    ),
    "the class of a dropped layer": (_set("drop", nn.Tanh), r"layer drop: was a Dropout"),
    "the option of a dropped layer": (_set("drop.p", 0.5), r"layer drop: p was 0\.0 at conversion and is 0\.5 now"),
    "the class of a container": (_set("inner", nn.Identity), r"layer inner: was a Inner"),
    "a bias": (_set("a.bias", None), r"layer a: bias was a tensor at conversion and is None now"),
    "an alias": (_set("again", lambda: nn.Linear(8, 8)), r"layer again: was the layer b at conversion"),
    "a deleted layer": (lambda m: m.__delattr__("a"), r"layer a: was there at conversion and is gone"),
    "a forward of its own": (
        _set("act.forward", lambda: torch.sin),
        r"layer act: forward was LeakyReLU\.forward at conversion and is sin now",
    ),
    "a method of its own": (_set("scaled", lambda: torch.sin), r"attribute scaled of Net"),
    "a hook on a layer in a block": (
        _call("a", "register_forward_hook", hook),
        r"layer a: has a forward hook since the conversion",
    ),
    "a hook before it": (_call("a", "register_forward_pre_hook", hook), r"layer a: has a forward pre hook"),
    "a backward hook": (_call("a", "register_full_backward_hook", hook), r"layer a: has a backward hook"),
    "a hook on a container": (_call("inner", "register_forward_hook", hook), r"layer inner: has a forward hook"),
    "pruning": (lambda m: prune.l1_unstructured(m.a, "weight", 0.5), r"layer a: has a forward pre hook"),
    "the old weight norm": (lambda m: torch.nn.utils.weight_norm(m.a), r"layer a: has a forward pre hook"),
    "the old spectral norm": (lambda m: torch.nn.utils.spectral_norm(m.a), r"layer a: has a forward pre hook"),
}
"""Changes that the program can't see, and what says so."""


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
def test_what_the_program_does_not_see_is_named(name: str, training: bool, x: Tensor) -> None:
    change, words = NAMED[name]
    model = fc.convert(Net().train(training), 1)
    model(x)
    change(model)
    with pytest.raises(ChangedError, match=words):
        model(x)
    with pytest.raises(ChangedError, match=words):
        model.training_step(x, torch.zeros(5, 3), F.mse_loss)
    with pytest.raises(ChangedError, match=words):
        model.report()
    with pytest.raises(ChangedError, match=words):
        model.lower()


@pytest.mark.parametrize(
    ("name", "value"), [("span", 5.0), ("widened", lambda self, y: y), ("scaled", lambda self, y: y)]
)
def test_a_class_that_overrides_what_it_inherits_is_named(name: str, value: Any, x: Tensor) -> None:
    class Derived(Net):
        pass

    model = fc.convert(Derived(), 1)
    model(x)
    setattr(Derived, name, value)
    with pytest.raises(ChangedError, match=f"attribute {name} of Derived"):
        model(x)


@pytest.mark.parametrize("name", ["an attribute", "a configuration", "the option of a layer in a block", "a list"])
def test_the_feedforward_model_has_the_change(name: str, x: Tensor) -> None:
    torch.manual_seed(0)
    net = Net()
    model = fc.convert(net, 1)
    for m in (net, model):
        NAMED[name][0](m)
    changed = model.to_feedforward()
    assert torch.equal(changed(x), net(x))
    torch.testing.assert_close(fc.convert(changed, 1)(x), net(x))


def test_all_changes_are_named_at_once_and_undone(x: Tensor) -> None:
    model = fc.convert(Net(), 1)
    before = model(x)
    model.tau, model.act.negative_slope = 0.1, 0.9
    handle = model.a.register_forward_hook(hook)
    with pytest.raises(ChangedError) as failure:
        model(x)
    assert len(failure.value.problems) == 3
    assert all("convert again" in str(p) or "Remove it" in str(p) for p in failure.value.problems)
    model.tau, model.act.negative_slope = 1.0, 0.1
    handle.remove()
    assert torch.equal(model(x), before)


def _hook_norm(model: nn.Module) -> None:
    model.norm.register_forward_hook(lambda m, i, o: o * 0)


def _halved(model: nn.Module) -> None:
    class Half(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w / 2

    parametrize.register_parametrization(model.a, "weight", Half())
    parametrize.register_parametrization(model.norm, "weight", Half())


def _spectral(model: nn.Module) -> None:
    torch.manual_seed(3)
    parametrizations.spectral_norm(model.a)


SEEN: dict[str, Callable[[Any], None]] = {
    "what nobody reads": _set("epoch", 7),
    "what nobody knows": _set("step", 7),
    "what nobody reads of a configuration": _set("inner.config.note", "other"),
    "new layers that nobody calls": lambda m: m.add_module("head", nn.Linear(2, 2)),
    "a new buffer": lambda m: m.register_buffer("count", torch.zeros(1)),
    "the same value": _set("tau", 2.0 / 2),
    "the option of a digital layer": _set("norm.eps", 0.5),
    "another digital layer": _set("norm", nn.Tanh),
    "a hook on a digital layer": _hook_norm,
    "weights in place": lambda m: m.a.weight.data.mul_(2),
    "other weights": _set("a.weight", lambda: nn.Parameter(torch.ones(8, 4))),
    "a buffer": _set("shift", lambda: torch.ones(3)),
    "another layer of the same kind": _set("a", lambda: _filled(nn.Linear(4, 8))),
    "frozen": lambda m: m.requires_grad_(False),
    "parametrised": _halved,
    "spectral": _spectral,
}
"""Changes that the program sees, or that change nothing."""


def _filled(layer: nn.Linear) -> nn.Linear:
    nn.init.constant_(layer.weight, 0.1)
    nn.init.constant_(layer.bias, 0.2)
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN)
def test_what_the_program_sees_works(name: str, x: Tensor) -> None:
    torch.manual_seed(0)
    net = Net()
    model = fc.convert(net, 1)
    model(x)
    for m in (net, model):
        SEEN[name](m)
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)


# --- what libraries change ---------------------------------------------------------------------------------


class LowRank(nn.Module):
    """An adapter by hand."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(4, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))  # type: ignore[no-any-return]


def _by_hand(model: Any) -> Any:
    model.a = LowRank(model.a)
    return model


def _peft(model: Any) -> Any:
    transformers()
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["a"], init_lora_weights=False))


def _quantised(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _prepared(model: Any) -> Any:
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(model.train())


ADAPTERS = [_by_hand, _peft]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [*ADAPTERS, _quantised, _prepared])
def test_layers_in_blocks_that_a_library_replaces_are_named(change: Callable[[Any], Any], x: Tensor) -> None:
    changed = change(fc.convert(Net().train(), 1))
    with pytest.raises(ChangedError, match=r"layer a: was a (torch.nn.modules.linear.)?Linear at conversion"):
        changed(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ADAPTERS)
def test_adapters_of_digital_layers_work(change: Callable[[Any], Any], x: Tensor) -> None:
    torch.manual_seed(0)
    net = Net()
    model = fc.convert(net, 1, digital=["a"])
    changed = []
    for each in (net, model):
        torch.manual_seed(1)
        changed.append(change(each))
    torch.testing.assert_close(changed[1](x), changed[0](x), rtol=1e-4, atol=1e-5)


def test_attributes_are_set_where_forward_reads_them() -> None:
    model = fc.convert(Net())
    model.tau = 0.5
    model.other = 1
    assert model.network.tau == model.tau == 0.5
    assert not hasattr(model.network, "other")
    del model.tau
    assert not hasattr(model.network, "tau")


def test_a_copy_and_an_unpickled_model_are_watched(x: Tensor) -> None:
    model = fc.convert(Net(), 1)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.lower()):
        other(x)
        other.inner.config.scale = 5.0
        with pytest.raises(ChangedError, match=r"inner\.config\.scale"):
            other(x)
    model(x)


OF_THE_ORIGINAL = [
    *("an attribute", "a configuration", "a list", "a list of layers", "the option of a layer in a block"),
    *("the class of a layer in a block", "the class of a dropped layer", "the class of a container", "a deleted layer"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_ORIGINAL)
def test_the_original_is_watched_where_tensors_are_shared(name: str, x: Tensor) -> None:
    net = Net()
    model = fc.convert(net, 1, copy=False)
    model(x)
    NAMED[name][0](net)
    with pytest.raises(ChangedError, match=", of the original"):
        model(x)
    copy.deepcopy(model)(x)  # it shares nothing with the original


def test_layers_of_the_original_that_are_called_live(x: Tensor) -> None:
    net = Net()
    model = fc.convert(net, 1, copy=False)
    net.norm.eps = 0.5
    with pytest.raises(ChangedError, match=r"layer norm, of the original: eps was 1e-05 at conversion and is 0\.5 now"):
        model(x)
    model.norm.eps = 0.5
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)
    net.norm = nn.LayerNorm(8, eps=0.5)
    with pytest.raises(ChangedError, match="layer norm, of the original: was replaced"):
        model(x)


def test_modes_hooks_and_bookkeeping_of_the_original_are_its_own(x: Tensor) -> None:
    net = Net()
    model = fc.convert(net, 1, copy=False)
    net.eval()
    net.epoch, net.new = 4, 1
    net.a.register_forward_hook(hook)
    net.a.weight.data.mul_(2)
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """Its forward writes what it reads, and reads through properties, partials and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.options, self.act = nn.Linear(4, 4), {"bias": 1.0}, partial(F.leaky_relu, negative_slope=0.1)
        self.inner_scale = 2.0

    @property
    def scale(self) -> float:
        return self.inner_scale

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lin(x)) * self.scale + self.options["bias"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("inner_scale", 3.0), "attribute inner_scale of Counting: was 2.0"),
        (
            _set("options", {"bias": 2.0}),
            "attribute options of Counting: was {'bias': 1.0} at conversion and is {'bias': 2.0}",
        ),
        (_set("act", lambda: partial(F.leaky_relu, negative_slope=0.2)), "attribute act of Counting"),
    ],
)
def test_what_is_read_in_other_ways(change: Callable[[nn.Module], None], words: str, x: Tensor) -> None:
    model = fc.convert(Counting(), 1)
    model.act = partial(F.leaky_relu, negative_slope=0.1)
    model(x)
    change(model)
    with pytest.raises(ChangedError, match=re.escape(words)):
        model(x)


def test_what_is_read_through_a_property_is_watched_in_another_process_too(x: Tensor) -> None:
    model = pickle.loads(pickle.dumps(fc.convert(Counting(), 1)))
    model(x)
    model.inner_scale = 3.0
    with pytest.raises(ChangedError, match="inner_scale"):
        model(x)


def test_functions_are_compared_by_what_they_do(x: Tensor) -> None:
    def times(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda h: torch.tanh(h) * factor

    net = Net()
    net.inner.act = times(1.0)
    model = fc.convert(net, 1)
    before = model(x)
    model.inner.act = times(1.0)
    assert torch.equal(model(x), before)
    model.inner.act = times(2.0)
    with pytest.raises(ChangedError, match="layer inner: act was"):
        model(x)


def test_under_export_everything_that_layers_read_is_watched(x: Tensor) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b, self.tau, self.epoch = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2), 2.0, 0

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.norm(self.a(x)))) / self.tau if x.shape[1] == 4 else x

    model = fc.convert(Branching(), 1, example_inputs=x)
    model.epoch = 3
    model(x)
    for path, value in (("tau", 1.0), ("norm.eps", 0.1), ("norm", nn.Identity())):
        changed = copy.deepcopy(model)
        _set(path, value)(changed)
        with pytest.raises(ChangedError, match=path.partition(".")[0]):
            changed(x)


def test_other_threads_and_later_reads_leave_no_trace(x: Tensor) -> None:
    fc.convert(Net(), 1)(x)
    assert nn.Module.__getattribute__ is object.__getattribute__
    assert "__getattribute__" not in vars(nn.Module)
    assert "__setattr__" not in vars(Config)
    assert nn.Module.__setattr__.__module__ == "torch.nn.modules.module"


def test_a_layer_that_is_called_as_a_whole_for_what_it_writes_is_live(x: Tensor) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.scale = 0, 2.0

        def forward(self, h: Tensor) -> Tensor:
            self.calls += 1
            return h * self.scale

    model = fc.convert(nn.Sequential(nn.Linear(4, 3), Counter(), nn.Linear(3, 2)), 1)
    before = model(x)
    model.get_submodule("1").scale = 0.0
    assert not torch.equal(model(x), before)


def test_a_failed_conversion_leaves_no_ears() -> None:
    class Bad(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else super().forward(x)

    with pytest.raises(fc.TraceError):
        fc.convert(Bad(4, 4))
    assert "__getattribute__" not in vars(nn.Module)


def _functions_called(work: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(calls for calls, *_ in pstats.Stats(profile).stats.values())  # type: ignore[attr-defined]


def test_the_look_is_cheap() -> None:
    """At most a fiftieth of the functions that a call of a small network calls."""
    layers = [layer for _ in range(5) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model, x = fc.convert(nn.Sequential(*layers)).eval(), torch.randn(32, 64)
    with torch.no_grad():
        model(x)
        assert _functions_called(runner_of(model).require_unchanged) < 0.02 * _functions_called(lambda: model(x))


# --- modes of single layers ---------------------------------------------------------------------------------


class Asks(nn.Module):
    """Goes another way while it trains."""

    def __init__(self, factor: float = 3.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 4), factor

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return h * self.factor if self.training else h


class Indifferent(Asks):
    """Asks for its mode, and does the same in both."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.factor > 5:
            return x
        return self.layer(x)  # type: ignore[no-any-return]


class Keeps(nn.Sequential):
    """Holds some of its layers in evaluation mode."""

    def train(self, mode: bool = True) -> Keeps:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, Asks)):
                module.eval()
        return self


def _asking() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Asks(), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_a_mode_that_forward_asked_for_is_named(training: bool, exported: bool, x: Tensor) -> None:
    model = fc.convert(_asking(), 1, norm="split", example_inputs=x if exported else None).train(training)
    model(x)
    model[0].train(not training)
    now, before = ("evaluation", "training") if training else ("training", "evaluation")
    words = f"layer 0: is in {now} mode, and the program was made for its {before} mode"
    with pytest.raises(ChangedError, match=words):
        model(x)
    model[0].train(training)
    model(x)


def test_a_backbone_that_was_frozen_before_is_named(x: Tensor) -> None:
    net = _asking().train()
    net[0].eval()
    with pytest.raises(ChangedError, match=r"layer 0: is in evaluation mode.*\n.*digital=\['0'\]"):
        fc.convert(net, 1, norm="split")(x)


def test_a_norm_in_a_block_that_takes_statistics_is_named(x: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4))
    for _ in range(9):
        net(torch.randn(8, 4))
    model = fc.convert(net.eval(), 3, norm="held").eval()
    model(x)
    model[1].train()
    with pytest.raises(ChangedError, match="layer 1: is in training mode"):
        model(x)
    model.train()
    model(x)
    model[1].eval()  # in which it is held
    model(x)


@pytest.mark.parametrize("training", [True, False])
def test_layers_that_are_called_have_modes_of_their_own(training: bool, x: Tensor) -> None:
    net = _asking().train(training)
    model = fc.convert(net, 1, norm="split", digital=["0", "1", "4"])
    model(x)
    net(x)
    for each in (net, model):
        for i in (0, 1, 4, 5):
            each[i].train(not training)
    torch.manual_seed(1)
    expected = net(x)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_mean, net[1].running_mean)


def test_a_mode_that_changes_nothing_is_no_change(x: Tensor) -> None:
    model = fc.convert(nn.Sequential(Indifferent(), nn.Tanh(), nn.Linear(4, 4)), 1).train()
    model(x)
    model[0].eval()
    model(x)


def test_a_model_keeps_modes_in_its_own_way(x: Tensor) -> None:
    net = Keeps(*_asking()[:-1]).train()
    model = fc.convert(net, 1, norm="split").train()
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)
    assert model.training
    assert not model[1].training
    assert int(model[1].num_batches_tracked) == 0


class AsksInTrain(Net):
    """As Hugging Face's models do: a change of the mode is looked at before it is made."""

    def train(self, mode: bool = True) -> AsksInTrain:
        self.changed = mode != self.training
        return super().train(mode)


@pytest.mark.parametrize("example", [True, False])
def test_a_mode_that_train_asks_for_is_no_forwards(example: bool, x: Tensor) -> None:
    model = fc.convert(AsksInTrain(), 1, example_inputs=x if example else None)
    for mode in (True, False, True):
        model.train(mode)(x)
