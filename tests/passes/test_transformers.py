"""Models of transformers as they come: default configurations, labels, masks; results of their own types, caches
included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.nests import take_apart
from tests.models import transformers

pytest.importorskip("transformers")

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
IDS = torch.arange(14).view(2, 7) % 11 + 2
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])


def made(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        network: nn.Module = getattr(transformers(), model)(getattr(transformers(), config)(**options)).eval()
        return network

    return make


WORDS = dict(vocab_size=29, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, **SMALL)
GPT2 = dict(vocab_size=29, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1)
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "bert": (made("BertModel", "BertConfig", **WORDS), {"input_ids": IDS}),
    "bert, labels": (
        made("BertForSequenceClassification", "BertConfig", num_labels=3, **WORDS),
        {"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 2])},
    ),
    "gpt2, labels": (
        made("GPT2LMHeadModel", "GPT2Config", **GPT2),
        {"input_ids": IDS, "attention_mask": MASK, "labels": IDS},
    ),
    "llama": (made("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **WORDS), {"input_ids": IDS}),
    "t5, labels": (
        made(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=29,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        ),
        {"input_ids": IDS, "labels": IDS[:, :4].contiguous()},
    ),
    "vit": (
        made("ViTForImageClassification", "ViTConfig", image_size=8, patch_size=4, num_labels=3, **SMALL),
        {"pixel_values": torch.linspace(-1, 1, 384).view(2, 3, 8, 8)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_converts_with_its_default_configuration(name: str) -> None:
    make, call = MODELS[name]
    net = make()
    model = fc.convert(net, 1, example_inputs=call)
    got, expected = model(**call), net(**call)
    assert type(got) is type(expected)
    ours, theirs = (take_apart(v, lambda t: isinstance(t, Tensor)) for v in (got, expected))
    assert repr(ours[1])[:500] == repr(theirs[1])[:500]
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for leaves in (ours[0], theirs[0]):
        torch.stack([t.square().mean() for t in leaves if t.is_floating_point()]).sum().backward()
    gradients = {n: p.grad for n, p in net.named_parameters()}
    for path, p in model.named_parameters():
        if gradients[path] is not None:
            torch.testing.assert_close(p.grad, gradients[path], rtol=1e-3, atol=1e-6, msg=path)


@pytest.mark.slow
def test_another_call_of_a_transformer_is_refused_by_name() -> None:
    make, call = MODELS["bert"]
    model = fc.convert(make(), 1, example_inputs=call)
    with pytest.raises(fc.errors.InputError, match="argument 'attention_mask': is a tensor"):
        model(input_ids=IDS, attention_mask=MASK)
    with pytest.raises(fc.errors.InputError, match="argument 'input_ids': has size 5 in dimension 1"):
        model(input_ids=IDS[:, :5])
