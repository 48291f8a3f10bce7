"""Compiled, adapted, dispatched and distributed models: what is pruned is the model inside."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from foveate import ModelError, attach
from foveate.methods import METHODS, method
from zoo import NAMES, Row, batch, build

# Code is compiled here, which takes minutes where other work has the cores.
pytestmark = pytest.mark.timeout(1500)

INPUT, LAYER = method("divprune", keep=0.5), METHODS["fastv"](keep=0.3)
TOWER = method("fastervlm", keep=0.5)
GREEDY = {"max_new_tokens": 3, "do_sample": False}
SIZE = dict.fromkeys(NAMES, (16, 32)) | {"llava": (24, 24), "internvl": 1}


def prompt(name="llava", seed=1, words=7):
    return batch(name, [Row([3, ("image", SIZE[name]), words], seed)])


@pytest.fixture
def fresh():
    """Compiled code of other tests is none of this one's."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


def whole(m):
    m.compile(backend="eager")
    return m


def tower(m):
    m.model.vision_tower.compile(backend="eager")
    return m


def method_alone(m):
    m.forward = torch.compile(m.forward, backend="eager")
    return m


# Tracing is slow: each way of compiling meets one kind of plan.
@pytest.mark.parametrize(("compiled", "plan"), [(whole, LAYER), (method_alone, INPUT), (tower, TOWER)])
def test_a_compiled_and_used_model_is_pruned(fresh, compiled, plan):
    model, b = build("llava"), prompt()
    with torch.no_grad():
        plain = model(**b.inputs).logits
        with attach(model, plan) as attached:
            want, kept = model(**b.inputs).logits, attached.report.to_dict(indices=True)["images"]
        model = compiled(model)
        model(**b.inputs)
        with attach(model, plan) as attached:
            got = model(**b.inputs).logits
            assert attached.report.to_dict(indices=True)["images"] == kept
        assert_close(got, want)
        assert_close(model(**b.inputs).logits, plain)


def test_generating_with_compiled_code(fresh):
    """Prompts of several lengths, and decoding, go through the same code, compiled before and while attached."""
    model, prompts = build("llava"), [prompt(), prompt(seed=3, words=12)]
    with torch.no_grad(), attach(model, LAYER):
        want = [model.generate(**b.inputs, **GREEDY) for b in prompts]
        model.compile(backend="eager")
        assert all(torch.equal(model.generate(**b.inputs, **GREEDY), w) for b, w in zip(prompts, want, strict=True))


# -- adapters


def adapted(model, targets, seed=0):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config).eval()


WHERE = {
    "language model": r".*language_model.*(q_proj|k_proj|v_proj|down_proj)",
    "tower": r".*vision_tower.*(q_proj|k_proj|fc1)",
    "everywhere": ["q_proj", "k_proj", "v_proj", "linear_1"],
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("plan", [INPUT, LAYER, TOWER])
def test_adapters(where, plan, tmp_path):
    """With adapters beside the weights, the model is what it is with adapters merged into them."""
    model, b = adapted(build("llava"), WHERE[where]), prompt()
    stock = copy.deepcopy(model).merge_and_unload()
    with torch.no_grad(), attach(stock, plan) as attached:
        want, kept = stock(**b.inputs).logits, attached.report.to_dict(indices=True)["images"]
    with torch.no_grad():
        plain = model(**b.inputs).logits
        with attach(model, plan) as attached:
            assert_close(model(**b.inputs).logits, want, rtol=1e-4, atol=2e-5)
            assert attached.report.to_dict(indices=True)["images"] == kept
            assert model.generate(**b.inputs, **GREEDY).shape[1] == b.length + 3
            model.save_pretrained(tmp_path)
            assert (tmp_path / "adapter_model.safetensors").stat().st_size
            model.merge_adapter()
            assert_close(model(**b.inputs).logits, want, rtol=1e-4, atol=2e-5)
            model.unmerge_adapter()
        assert_close(model(**b.inputs).logits, plain)
        with attach(model.base_model, plan), pytest.raises(ModelError, match="already has a plan"):
            attach(model, plan)


def test_unwrapped_while_attached():
    """Adapters may be merged and taken off for good while a plan is on."""
    model, b = adapted(build("llava"), WHERE["everywhere"]), prompt()
    with torch.no_grad(), attach(model, LAYER):
        want = model(**b.inputs).logits
        stock = model.merge_and_unload()
        assert_close(stock(**b.inputs).logits, want, rtol=1e-4, atol=2e-5)


def test_learned_prompts_are_refused_by_name():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = build("llava")
    model.config.num_attention_heads, model.config.num_hidden_layers, model.config.hidden_size = 4, 4, 32
    with pytest.raises(ModelError, match="learned tokens before the prompt"):
        attach(peft.get_peft_model(model, config), INPUT)


# -- others


def test_what_cannot_be_unwrapped_is_refused_by_name():
    model = build("llava")
    with pytest.raises(ModelError, match="DataParallel copies the model"):
        attach(nn.DataParallel(model), INPUT)
    with pytest.raises(ModelError, match=r"not a Pipe; pass its \.model"):
        attach(type("Pipe", (), {"model": model})(), INPUT)
    with pytest.raises(ModelError, match="takes a model, not a str"):
        attach("llava", INPUT)

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

    with pytest.raises(ModelError, match="Mine"):
        attach(Mine(), INPUT)


def test_compiled_adapted_and_dispatched(fresh):
    """Wrappers around wrappers."""
    accelerate = pytest.importorskip("accelerate")
    model, b = adapted(build("llava"), WHERE["everywhere"]), prompt()
    with torch.no_grad(), attach(model, LAYER):
        want = model(**b.inputs).logits
    with torch.no_grad(), attach(torch.compile(model, backend="eager"), LAYER) as attached:
        assert_close(torch.compile(model, backend="eager")(**b.inputs).logits, want)
        assert attached.report is not None
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad(), attach(model, LAYER) as attached:
        assert_close(model(**b.inputs).logits, want)
        assert attached.report is not None


@pytest.mark.parametrize("plan", [INPUT, LAYER, TOWER, method("pool", keep=0.5)])
def test_accelerators_mixed_precision(plan):
    """`Accelerator(mixed_precision="bf16")` wraps forward in autocast, and gives float32 back."""
    accelerate = pytest.importorskip("accelerate")
    model, b = build("llava"), prompt()
    with torch.no_grad(), attach(model, plan), torch.autocast("cpu", torch.bfloat16):
        want = model(**b.inputs).logits
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    with torch.no_grad(), attach(prepared, plan) as attached:
        got = prepared(**b.inputs).logits
        assert attached.report.budget < attached.report.tokens
    assert got.dtype == torch.float32
    assert_close(got, want.float())
