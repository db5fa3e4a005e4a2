"""The peers of `bench step` have the same parameters and a loss that falls. Nothing is timed."""

import json

import pytest
import torch

from bench import attention, machine, step, training_step
from bench.peers import mae_plain
from bench.repeat import interleave, ratio, summary
from scemae.config.load import load_config
from scemae.methods import mae
from tests.support import TINY


@pytest.fixture
def config():
    return load_config("pretrain", ["run_dir=none", *TINY])


def peer(name, config):
    if name == "plain":
        return mae_plain.PlainMae(config.model, config.decoder), mae_plain.optimizer
    pytest.importorskip("lightly")
    from bench.peers import mae_lightly

    return mae_lightly.LightlyMae(config.model, config.decoder), mae_lightly.optimizer


def trained(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["plain", "lightly"])
def test_the_loss_of_a_peer_falls(name, config):
    torch.manual_seed(0)
    module, make = peer(name, config)
    optimizer, images = make(module, 3e-3), torch.rand(4, 3, 96, 96)
    losses = []
    for _ in range(12):
        loss = module(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ["plain", "lightly"])
def test_a_peer_trains_as_many_parameters_as_ours(name, config):
    ours = mae.build(mae.Settings(config.model, config.decoder, 0.75, False), seed=0)
    unused = (
        config.model.width if name == "lightly" else 0
    )  # its encoder has a mask token that MAE does not use
    assert trained(peer(name, config)[0]) == trained(ours) + unused


def test_plain_and_ours_agree_at_the_same_weights_where_the_mask_does_not_matter(config):
    ours = mae.build(mae.Settings(config.model, config.decoder, 0.0, False), seed=0)
    module = mae_plain.PlainMae(config.model, config.decoder, 0.0)
    own = [p for p in module.parameters() if p.requires_grad]
    assert len(own) == len(list(ours.parameters()))
    copy_weights(ours, module)
    images, noise = torch.rand(2, 3, 96, 96), torch.rand(2, 144)
    tokens, _, ids_restore = module._encode(images)
    assert torch.allclose(
        module._decode(tokens, ids_restore), ours.reconstruct(images, noise)[0], atol=1e-5
    )


def copy_weights(ours, plain):
    """Copy the weights of ours into the plain network, whose names differ in these parts."""
    names = {
        "encoder.patch_embed": "patch_embed",
        "encoder.cls_token": "cls_token",
        "encoder.blocks": "blocks",
        "encoder.norm": "norm",
        "decoder.embed": "decoder_embed",
        "decoder.mask_token": "mask_token",
        "decoder.blocks": "decoder_blocks",
        "decoder.norm": "decoder_norm",
        "decoder.predict": "predict",
    }
    state = plain.state_dict()
    for name, value in ours.state_dict().items():
        old = max((old for old in names if name.startswith(old)), key=len)
        target = name.replace(old, names[old], 1).replace("attn", "attention")
        target = target.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
        if (
            target == "patch_embed.weight"
        ):  # pixels of a patch lie p q c in ours, c p q in a convolution's
            p = plain.patch_embed.kernel_size[0]
            value = value.reshape(-1, p, p, 3).permute(0, 3, 1, 2)
        state[target] = value
    plain.load_state_dict(state)


def test_a_run_writes_a_row_for_each_case(tmp_path, monkeypatch, config):
    monkeypatch.setattr(training_step, "settings", lambda options, *overrides: config)
    cases = ["ours", "plain"]
    step.main(
        [
            "--batch",
            "2",
            "--steps",
            "1",
            "--repeats",
            "2",
            "--warm-up",
            "1",
            "--device",
            "cpu",
            "--cases",
            *cases,
            "--out",
            str(tmp_path),
        ]
    )
    text = (tmp_path / "step-deit_small-cpu-fp32.md").read_text()
    assert all(f"| {name} |" in text for name in cases) and "x plain" in text


def test_back_ends_of_attention_are_compared_and_those_that_are_not_here_are_named(tmp_path):
    attention.main(
        [
            "--model",
            "deit_tiny",
            "--decoder",
            "light",
            "--batch",
            "2",
            "--device",
            "cpu",
            "--out",
            str(tmp_path),
        ]
    )
    alone, whole = (
        json.loads((tmp_path / f"attention-{kind}-deit_tiny-cpu-fp32.json").read_text())
        for kind in ("alone", "step")
    )
    assert {(row["half"], row["tokens"]) for row in alone["rows"]} == {
        ("encoder", 37),
        ("decoder", 145),
    }
    assert {"torch's choice, eager", "plain products in the encoder, eager"} <= {
        row["case"] for row in whole["rows"]
    }
    assert (
        "not here" in whole["facts"]["cuDNN, eager"]
        and "not here" in alone["facts"]["encoder, cuDNN"]
    )


@pytest.mark.parametrize("tokens", [37, 145])
def test_plain_products_are_torchs_attention(tokens):
    q, k, v = (
        torch.randn(
            2, 6, tokens, 64, generator=torch.Generator().manual_seed(i), requires_grad=True
        )
        for i in range(3)
    )
    found, expected = (
        attention.plain_attention(q, k, v),
        torch.nn.functional.scaled_dot_product_attention(q, k, v),
    )
    assert torch.allclose(found, expected, atol=1e-6)
    for one, other in zip(
        *(torch.autograd.grad(out, (q, k, v), v.detach()) for out in (found, expected))
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_plain_attention_leaves_the_autoencoders_loss(config):
    losses, given = [], (torch.randn(2, 3, 96, 96), torch.rand(2, 144), torch.full((2,), 0.5))
    for fused in (True, False):
        module = mae.build(mae.Settings(config.model, config.decoder, 0.75, False), seed=0)
        for block in [*module.encoder.blocks, *module.decoder.blocks]:
            block.attn.fused_attn = fused
        losses.append(module(*given))
    assert torch.allclose(*losses, rtol=1e-5)


def test_cases_run_in_turn_and_ratios_are_within_rounds():
    order = []
    cases = {name: lambda name=name: order.append(name) or float(len(order)) for name in "AB"}
    found = interleave(cases, 3)
    assert order == list("ABABAB")
    assert (
        ratio(found["B"], found["A"]) == pytest.approx(4 / 3) and summary(found["A"])["median"] == 3
    )


def test_facts_name_the_machine(tmp_path):
    facts = machine.facts()
    path = machine.write(
        "x", tmp_path, [{"case": "a", "images/s": 1234.5, "repeats": [1.0]}], facts
    )
    assert (
        "| a | 1,234 |" in path.read_text()
        and facts["cores"] >= 1
        and "repeats" not in path.read_text()
    )
