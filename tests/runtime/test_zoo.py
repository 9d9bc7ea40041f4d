"""Every model of the zoo from its bundle: it infers as the executor does, and a training step leaves the same gradients.

Gradients are compared relative to the largest of the model: one that is zero but for rounding (of a bias before a batch norm) has no
scale of its own. Dropout of both sides keeps by the same uniform numbers.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from models import ZOO, Entry, flatten
from runtimes import SameDropout, linear_loss, loaded, without_attention_dropout

import ffebm_compiler as fc

AGREES = 1e-5


def entries() -> list[object]:
    return [
        pytest.param(e, id=e.name, marks=pytest.mark.skipif(not e.installed, reason=f"{e.requires} is not installed"))
        for e in ZOO
        if not e.heavy
    ]


@pytest.mark.parametrize("entry", entries())
@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConvergenceWarning")
def test_inference_and_one_training_step(entry: Entry) -> None:
    net, args = entry.build()
    without_attention_dropout(net)
    model = fc.convert(net, block_size=2, example_inputs=args if entry.export else None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter
        runtime = loaded(model, args)
    assert not runtime.contents.refused
    with torch.no_grad():
        expected = flatten(model(*args))
    for ours, theirs in zip(flatten(runtime(*args)), expected, strict=True):
        assert float((ours - theirs).abs().max()) <= AGREES * float(theirs.abs().max())
    assert [r.sweeps for r in runtime.relaxation] == [r.sweeps for r in model.relaxation]

    model.train()
    with SameDropout(0):
        outputs = flatten(model(*args))
        loss, _ = linear_loss(outputs, 3)
        loss.backward()
    runtime.trainer(seed=0)
    value = runtime.train_step(args, 3, linear_loss)
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-4)
    exact = {n: p.grad for n, p in model.network.named_parameters() if p.grad is not None}
    found = runtime.gradients()
    largest = max(float(g.abs().max()) for g in exact.values())
    for name in exact.keys() | found.keys():
        zero = torch.zeros(())
        difference = exact.get(name, zero) - found.get(name, zero)
        assert float(difference.abs().max()) <= AGREES * largest, name
    theirs = model.network.state_dict()
    for name, tensor in runtime.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
