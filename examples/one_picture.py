"""Ask about a picture with a fifth of its visual tokens: python examples/one_picture.py MODEL PICTURE QUESTION."""

import sys

import foveate
from foveate import images, methods
from foveate.engines import hf

model_name, picture, question = sys.argv[1:]  # e.g. Qwen/Qwen2.5-VL-7B-Instruct photo.jpg "what is this?"

engine = hf.load(model_name)  # or your own: AutoModelForImageTextToText and AutoProcessor, .from_pretrained(...)
model, processor = engine.model, engine.processor

talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
inputs = processor(text=[text], images=[images.load(picture)], return_tensors="pt").to(model.device)

with foveate.attach(model, methods.divprune(keep=0.222)) as attached:
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)

print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
print(attached.report)
