"""A conversation in which a second picture turns up: python examples/chat.py MODEL PICTURE PICTURE."""

import sys

import foveate
from foveate import images, methods
from foveate.engines import hf

model_name, *pictures = sys.argv[1:]
engine = hf.load(model_name)
model, processor = engine.model, engine.processor

turns = [
    [{"type": "image"}, {"type": "text", "text": "What is in this picture?"}],
    [{"type": "image"}, {"type": "text", "text": "And what is different in this one?"}],
    [{"type": "text", "text": "Which of the two is brighter?"}],
]
talk, shown = [], []

# Attached once for the whole conversation: what was cut from the first picture stays cut as the talk goes on.
with foveate.attach(model, methods.divprune(keep=0.25)) as attached:
    for content in turns:
        talk.append({"role": "user", "content": content})
        shown += [images.load(pictures[len(shown)])] if content[0]["type"] == "image" else []
        text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=shown, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answer = processor.tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip()
        talk.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        print(f"{answer}  ({attached.report.cache_tokens:,} of {attached.report.cache_tokens_full:,} cache entries)")
