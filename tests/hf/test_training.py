"""Training under a plan: the loss, and what LoRA learns from it, is that of the model that masks what was dropped."""

import copy

import pytest
import torch
from torch.testing import assert_close

from alltypes import prompts, tiny
from foveate import ModelError, attach
from foveate.methods import METHODS, method
from masked import masked, places
from zoo import DEPTH, NAMES, Row, batch, build

INPUT, LAYER = method("divprune", keep=0.5), METHODS["fastv"](keep=0.3)
SIZE = dict.fromkeys(NAMES, (16, 32)) | {"llava": (24, 24), "internvl": 1}


def samples(name, seeds=(1, 2)):
    rows = [Row([3, ("image", SIZE[name]), 7 + 3 * s], s) for s in seeds]
    b = batch(name, rows)
    labels = b.inputs["input_ids"].masked_fill(b.inputs["attention_mask"] == 0, -100)
    # Answers: the last words of each row, none of them an image's.
    labels[:, :-4] = -100
    return b, labels


def lora(model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def grads(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def learn(model, steps, autocast=None):
    """Loss of each micro-batch and the gradients they add up to."""
    model.zero_grad()
    losses = []
    for inputs, labels in steps:
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            loss = model(**inputs, labels=labels, use_cache=False).loss / len(steps)
        loss.backward()
        losses.append(loss.detach().float())
    return torch.stack(losses), grads(model)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("plan", [INPUT, LAYER])
def test_a_lora_step_is_the_masked_models(name, plan):
    """Loss and gradients, over two micro-batches that accumulate."""
    steps = [samples(name), samples(name, (3, 4))]
    model = lora(build(name)).train()
    reports = []
    with attach(model, plan) as attached:
        losses, got = learn(model, [(b.inputs, labels) for b, labels in steps])
        for b, labels in steps:
            with torch.no_grad():
                model(**b.inputs, labels=labels, use_cache=False)
            reports.append(attached.report)
    want_losses, want = [], {}
    for (b, labels), report in zip(steps, reports, strict=True):
        with masked(name, report, b.inputs["attention_mask"].bool(), places(b.inputs), DEPTH) as stock:
            yardstick = lora(copy.deepcopy(stock)).train()
            yardstick.load_state_dict(model.state_dict())
            loss, each = learn(yardstick, [(b.inputs, labels)])
        want_losses.append(loss[0] / len(steps))
        want = {n: g / len(steps) + want.get(n, 0) for n, g in each.items()}
    assert_close(losses, torch.stack(want_losses), rtol=1e-4, atol=1e-5)
    assert got.keys() == want.keys()
    assert sum(bool(g.abs().sum() > 0) for g in got.values()) > len(got) // 2
    for n, g in got.items():
        assert_close(g, want[n], rtol=1e-3, atol=1e-5, msg=n)


@pytest.mark.parametrize("plan", [INPUT, LAYER, method("pool", keep=0.5)])
def test_mixed_precision(plan):
    """As far from float32 as the stock model's own rounding takes it."""
    (b, labels), model = samples("llava"), lora(build("llava")).train()
    steps = [(b.inputs, labels)]
    plain, _ = learn(model, steps)
    rounded, _ = learn(model, steps, torch.bfloat16)
    with attach(model, plan):
        want, _ = learn(model, steps)
        got, found = learn(model, steps, torch.bfloat16)
    assert abs(got - want) <= 0.05 + 5 * abs(rounded - plain)
    assert all(bool(g.isfinite().all()) for g in found.values())


def test_a_trainer_trains(tmp_path):
    """`Trainer(bf16=True)` with accumulation, on an adapted model under an in-LLM cut."""
    from transformers import Trainer, TrainingArguments

    pytest.importorskip("accelerate")
    data = []
    for seed in range(4):
        b, labels = samples("llava", (seed,))
        data.append({k: v[0] for k, v in b.inputs.items()} | {"labels": labels[0]})
    width = max(len(d["input_ids"]) for d in data)

    def collate(rows):
        fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        out = {"pixel_values": torch.stack([r["pixel_values"] for r in rows])}
        for name, value in fill.items():
            out[name] = torch.stack(
                [torch.nn.functional.pad(r[name], (width - len(r[name]), 0), value=value) for r in rows]
            )
        return out

    model = lora(build("llava"))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, bf16=True,
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", learning_rate=1e-2,
        remove_unused_columns=False,
    )  # fmt: skip
    with attach(model, LAYER) as attached:
        Trainer(model=model, args=args, train_dataset=data, data_collator=collate).train()
        assert attached.report.budget < attached.report.tokens
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters() if n in before)


def test_the_loss_that_balances_experts_is_refused():
    """It weighs each router's rows by the padding mask of the whole prompt."""
    model = tiny.build("qwen3_vl_moe")
    inputs = prompts.batch("qwen3_vl_moe", model, prompts.mixed("qwen3_vl_moe", model))
    call = inputs | {"labels": inputs["input_ids"], "output_router_logits": True}
    with torch.no_grad(), attach(model, LAYER) as attached:
        with pytest.raises(ModelError, match="output_router_logits=False"):
            model(**call)
        assert torch.isfinite(model(**call | {"output_router_logits": False}).loss)
        attached.detach()
        assert torch.isfinite(model(**call).aux_loss)
