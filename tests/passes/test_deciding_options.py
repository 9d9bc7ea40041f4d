"""An error that names a line of the user's names the options that decide that it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from tests.models import transformers

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Skipping(nn.Module):
    """A layer that is left out at random, as layerdrop does."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 1)
        self.config = SimpleNamespace(**{"layerdrop": 0.1, "noise": 0.0, "rounds": 2, **options})

    def forward(self, x: Tensor) -> Tensor:
        x = self.noisy(x)
        skip = self.gate(x).mean() < self.config.layerdrop if self.config.layerdrop > 0 else False
        if not skip:
            x = torch.relu(self.a(x))
        return self.b(x)

    def noisy(self, x: Tensor) -> Tensor:
        if self.config.noise > 0 and self.training:
            return x + self.drawn()
        return x

    def drawn(self) -> float:
        return float(np.random.rand())


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "exported"])
def test_a_choice_by_values_names_the_option_behind_it(example: Tensor | None) -> None:
    with pytest.raises(fc.TraceError, match=r"because of self\.config\.layerdrop = 0\.1:") as raised:
        fc.convert(Skipping(), 1, example_inputs=example)
    assert "rounds" not in str(raised.value)
    assert fc.convert(Skipping(layerdrop=0.0), 1, example_inputs=example).blocks


@pytest.mark.parametrize("example", [None, X], ids=["symbolic", "exported"])
def test_a_draw_names_the_option_that_its_callers_go_by(example: Tensor | None) -> None:
    with pytest.raises(fc.TraceError, match=r"random(.|\n)*because of self\.config\.noise = 0\.5:"):
        fc.convert(Skipping(layerdrop=0.0, noise=0.5), 1, example_inputs=example)


def test_a_line_that_no_option_decides_names_none() -> None:
    class Plain(Skipping):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if x.sum() > 0 else self.b(-x)

    with pytest.raises(fc.TraceError) as raised:
        fc.convert(Plain(), 1)
    assert "because of" not in str(raised.value)


@pytest.mark.slow
def test_layerdrop_of_a_transformer_is_named() -> None:
    pytest.importorskip("transformers")
    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_feat_extract_layers=2
    )
    convolutions = dict(
        conv_dim=(4, 4),
        conv_stride=(2, 2),
        conv_kernel=(3, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )

    def made(**options: Any) -> nn.Module:
        config = transformers().Wav2Vec2Config(**sizes, **convolutions, **options)
        network: nn.Module = transformers().Wav2Vec2Model(config)
        return network

    x = torch.randn(2, 60)
    with pytest.raises(fc.TraceError, match=r"because of self\.config\.layerdrop = 0\.1:"):
        fc.convert(made(), 1, example_inputs=x)
    with pytest.raises(fc.TraceError, match=r"draws from numpy(.|\n)*because of self\.config\.mask_time_prob = 0\.05:"):
        fc.convert(made(layerdrop=0.0), 1, example_inputs=x)
    assert fc.convert(made(layerdrop=0.0, mask_time_prob=0.0), 1, example_inputs=x).blocks
