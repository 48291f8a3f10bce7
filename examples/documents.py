"""One question about every page in a folder, in batches: python examples/documents.py MODEL FOLDER QUESTION."""

import sys
from pathlib import Path

import foveate
from foveate import images, methods
from foveate.engines import hf
from foveate.engines.prompting import prepare_batch

model_name, folder, question = sys.argv[1:]
pages = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))

engine = hf.load(model_name)
model, tokenizer = engine.model, engine.processor.tokenizer

# A number means "at most": a small page keeps all of its tokens, a large one the 64 that cover it best.
with foveate.attach(model, methods.divprune(keep=64)) as attached:
    for start in range(0, len(pages), 4):
        batch = pages[start : start + 4]
        prompt = prepare_batch(engine, [([images.load(page)], question) for page in batch])
        output = model.generate(**prompt.inputs, max_new_tokens=32, do_sample=False)
        answers = tokenizer.batch_decode(output[:, prompt.tokens :], skip_special_tokens=True)
        for page, answer, seen in zip(batch, answers, attached.report.images, strict=True):
            print(f"{page.name}: {answer.strip()}  ({seen.cuts[-1].count} of {seen.tokens} tokens)")
