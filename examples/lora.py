"""Train a LoRA adapter with pruning on: python examples/lora.py MODEL DATA.jsonl OUT. Needs peft."""

import sys

import torch
from peft import LoraConfig, get_peft_model

import foveate
from foveate import data, methods
from foveate.engines import hf
from foveate.engines.prompting import prepare

model_name, file, out = sys.argv[1:]
engine = hf.load(model_name)
model = get_peft_model(engine.model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
model.train()

# The adapter learns from what it will see: a quarter of each picture's tokens. Labels keep their places.
with foveate.attach(model, methods.divprune(keep=0.25)):
    for example in data.load(file, labelled=True):
        prompt = prepare(engine, example.pictures(), example.question)
        said = engine.processor.tokenizer(" " + example.answers[0], add_special_tokens=False, return_tensors="pt")
        said_ids = said["input_ids"].to(model.device)
        ids = torch.cat([prompt.inputs["input_ids"], said_ids], dim=1)
        labels = ids.clone()
        labels[:, : prompt.tokens] = -100
        inputs = prompt.inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs.pop("mm_token_type_ids", None)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"{example.id}: loss {loss.item():.3f}")

model.save_pretrained(out)
