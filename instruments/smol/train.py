"""Train projector and LoRA on cached tower features, in two stages; the same command goes on from a checkpoint.

    python -m instruments.smol.features train 2400 && python -m instruments.smol.features validation 100
    python -m instruments.smol.train --minutes 75                                     # one CPU core, 144 tokens
    python -m instruments.smol.train --start instruments/smol --minutes 240       # the repository's, further
    python -m instruments.smol.train --minutes 10 --device cuda --image-size 336 --scenes 32   # a GPU, 576 tokens

Stage 1 (`names`): the projector alone learns to name (`naming.py`). It costs no LLM, and is why places are learnt at
all: DINOv2's patches say little about them. Stage 2: questions, with the same lesson beside them. The rate stays level
and falls over the last two fifths of the run's minutes: a run that went well can be taken further with more minutes.
Each point of the learning curve has validation scenes of pictures that training shows and (`unseen`) of others.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from instruments.smol import features, world
from instruments.smol.decoder import Decoder, Watch
from instruments.smol.naming import Naming
from instruments.smol.parts import cache

BEFORE, AFTER, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
TOGETHER = 48
"""Scenes that one step of naming sees."""
CAPS = {"what": 3, "where": 3, "relation": 12, "exist": 2, "kind": 2, "chart": 1}


class Projector(nn.Module):
    """transformers' LLaVA projector on standardised features; when the model is built linear_1 absorbs the standard."""

    def __init__(self, wide: int, out: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(wide, out), nn.Linear(out, out)
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("std", torch.ones(wide))

    def forward(self, features_BLNC: Tensor) -> Tensor:
        """(B, layers, N, C) to (B, N, D)."""
        flat = features_BLNC.transpose(1, 2).flatten(2).float()
        return self.linear_2(F.gelu(self.linear_1((flat - self.mean) / self.std)))


class Words:
    """Token ids of questions and answers, exactly as the processor's chat template makes them."""

    def __init__(self, tokenizer) -> None:
        self.ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        self.before, self.after, self.end = self.ids(BEFORE), self.ids(AFTER), self.ids(END)

    def pack(self, asked: Sequence[Sequence[world.Question]]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, labels and what is no padding, (B, K, L).

        Labels stand where the next token is part of the answer or its end, -100 elsewhere.
        """
        rows = [[(self.ids("\n" + q.text) + self.after, self.ids(q.answer) + self.end) for q in of] for of in asked]
        longest = max(len(p) + len(a) for of in rows for p, a in of)
        ids = torch.full((len(rows), max(map(len, rows)), longest), self.end[0])
        labels, real = torch.full_like(ids, -100), torch.zeros_like(ids, dtype=torch.bool)
        for b, of in enumerate(rows):
            for k, (prompt, answer) in enumerate(of):
                ids[b, k, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                real[b, k, : len(prompt) + len(answer)] = True
                labels[b, k, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
        return ids, labels, real


def logits(
    model: Decoder,
    visual_BMD: Tensor,
    words: Words,
    asked: Sequence[Sequence[world.Question]],
    kept_BM: Tensor | None = None,
    whole: int | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """What the model says wherever a token of an answer is due: logits (P, vocabulary), and labels (B, K, L).

    Args:
        model: the decoder.
        visual_BMD: projected visual tokens, those that stay.
        words: the tokenizer's side.
        asked: questions, scene by scene.
        kept_BM: their numbers among all `whole` tokens of a picture, whose positions they keep; None where all stay.
        whole: tokens of a picture; None where all stay.
        watch: see `Decoder.forward`.
    """
    B, M = visual_BMD.shape[:2]
    ids, labels, real = (t.to(visual_BMD.device) for t in words.pack(asked))
    before = torch.tensor(words.before, device=ids.device)
    kept_BM = torch.arange(M, device=ids.device).expand(B, -1) if kept_BM is None else kept_BM
    places = torch.cat([torch.arange(len(before), device=ids.device).expand(B, -1), kept_BM + len(before)], 1)
    first = torch.full((B,), len(before) + (whole or M), device=ids.device)
    prefix = torch.cat([model.embed[before].expand(B, -1, -1), visual_BMD.to(model.dtype)], 1)
    states = model(prefix, model.embed[ids], places, first, real, watch)
    return (states[labels != -100] @ model.embed.T).float(), labels


def right(found: Tensor, labels: Tensor) -> list[list[bool]]:
    """For every question of every scene: is each token of the answer the likeliest one?"""
    good = torch.zeros_like(labels, dtype=torch.bool)
    good[labels != -100] = found.argmax(-1) == labels[labels != -100]
    return ((labels == -100) | good).all(-1).tolist()


def capped(asked: list[world.Question], most: int) -> list[world.Question]:
    """At most `most` questions, few of a kind."""
    seen, out = {}, []
    for q in asked:
        seen[q.kind] = seen.get(q.kind, 0) + 1
        if seen[q.kind] <= CAPS[q.kind]:
            out.append(q)
    return out[:most]


def held(split: str, image_size: int, most: int) -> tuple[Tensor, list[list[world.Question]]]:
    """Features of a split's scenes, and questions about each."""
    known = features.load(split, image_size, most)[:most]
    placed = [world.layout(split, n, image_size).placed for n in range(len(known))]
    drawn = [world.questions(p, world.chance("asked", split, n)) for n, p in enumerate(placed)]
    return known, [capped(of, 16) for of in drawn]


class Run:
    """Everything a training run holds, and its folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, Path(given.run)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.side = given.image_size // 14
        torch.manual_seed(0)
        self.tokenizer = AutoTokenizer.from_pretrained(cache() / "llm")
        self.words = Words(self.tokenizer)
        self.model = Decoder.from_folder(cache() / "llm", given.rank).to(given.device)
        self.projector = Projector(len(features.LAYERS) * 384, self.model.config.hidden_size).to(given.device)
        self.load()
        self.naming = Naming(self.tokenizer, self.model, self.side)
        self.targets = self.naming.targets(self.scenes) if given.naming or given.names else None
        self.parameters = {f"projector.{n}": p for n, p in self.projector.named_parameters()}
        self.parameters |= {f"lora.{n}": p for n, p in self.model.lora.named_parameters()}
        groups = [(given.projector_rate, "projector."), (given.rate, "lora.")]
        made = [{"params": [p for n, p in self.parameters.items() if n.startswith(at)], "lr": lr} for lr, at in groups]
        self.optimizer = torch.optim.AdamW(made, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.curve = 0, []

    def load(self) -> None:
        """Features of every training scene, and what is in them."""
        self.train = features.load("train", self.given.image_size)
        self.scenes = [world.layout("train", n, self.given.image_size).placed for n in range(len(self.train))]

    def asked(self, n: int, r: random.Random) -> list[world.Question]:
        """Questions about training scene n."""
        return capped(world.questions(self.scenes[n], r), self.given.questions)

    def checked(self, split: str = "validation") -> tuple[Tensor, list[list[world.Question]]]:
        """Features of a split's scenes, and questions about each."""
        return held(split, self.given.image_size, self.given.measure)

    def features(self, scenes: list[int]) -> Tensor:
        """Training features of some scenes."""
        return self.train[scenes].to(self.given.device)

    def standardise(self) -> None:
        """Mean and deviation of each channel over the first 300 scenes."""
        flat = self.train[:300].float().transpose(1, 2).flatten(2).flatten(0, 1)
        self.projector.mean.copy_(flat.mean(0))
        self.projector.std.copy_(flat.std(0) + 1e-3)

    def name_stage(self, steps: int) -> None:
        """Stage 1: the projector alone."""
        self.standardise()
        with torch.no_grad():
            self.projector.linear_2.weight *= self.naming.length / 3
        optimizer = torch.optim.AdamW(self.projector.parameters(), lr=2e-3, weight_decay=0.01)
        r, held, start = random.Random(0), max(1, len(self.scenes) // 20), time.process_time()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1, (step + 1) / 20) * max(0.05, 1 - step / steps)
            at = [r.randrange(held, len(self.scenes)) for _ in range(TOGETHER)]
            loss = self.naming.loss(self.projector, self.features(at), self.targets[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == steps - 1 or step % 50 == 49:
                found = self.naming.scores(self.projector, self.features(list(range(held))), self.targets[:held])
                spent = time.process_time() - start
                print(f"names {step + 1} loss {loss:.3f} held out: {found} {spent:.0f} cpu s", flush=True)

    def save(self, minutes: float) -> None:
        """weights.safetensors (what the model is built from), optimizer.safetensors and run.json."""
        tensors = {n: p.detach() for n, p in self.parameters.items()}
        tensors |= {f"projector.{n}": b for n, b in self.projector.named_buffers()}
        moments, state = {}, self.optimizer.state_dict()["state"]
        for i, of in state.items():
            moments |= {f"{i}.{k}": v for k, v in of.items()}
        for name, of in (("weights", tensors), ("optimizer", moments)):
            save_file({k: v.contiguous() for k, v in of.items()}, part := self.folder / f"{name}.part")
            part.rename(self.folder / f"{name}.safetensors")
        log = {"step": self.step, "minutes": minutes, "options": vars(self.given), "curve": self.curve}
        (part := self.folder / "run.part").write_text(json.dumps(log, indent=1), encoding="utf8")
        part.rename(self.folder / "run.json")

    def resume(self) -> float:
        """Minutes trained so far, in this folder or where it is to start from; 0 for a new run."""
        started = (self.folder / "run.json").exists()
        folder = self.folder if started or not self.given.start else Path(self.given.start)
        if not (folder / "run.json").exists():
            return 0.0
        log = json.loads((folder / "run.json").read_text(encoding="utf8"))
        load_weights(folder / "weights.safetensors", self.projector, self.model)
        self.step, self.curve = log["step"], log["curve"]
        # A published checkpoint has no moments: they are found anew within a few dozen steps.
        if (moments := folder / "optimizer.safetensors").exists():
            state = self.optimizer.state_dict()
            for key, value in load_file(moments).items():
                index, name = key.split(".")
                state["state"].setdefault(int(index), {})[name] = value
            self.optimizer.load_state_dict(state)
        return log["minutes"]

    def learn(self) -> None:
        """Stage 2, until the run's minutes are over."""
        given, before, start = self.given, self.resume(), time.time()
        if not before and given.names:
            self.name_stage(given.names)
        rates = [given.projector_rate, given.rate]
        losses, saved = [], time.time()
        while (minutes := before + (time.time() - start) / 60) < given.minutes:
            left = (given.minutes - minutes) / (0.4 * given.minutes)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1, (self.step + 1) / 20) * min(1, max(0.03, left))
            r = random.Random(self.step)
            at = [r.randrange(len(self.train)) for _ in range(given.scenes)]
            asked = [self.asked(n, r) for n in at]
            found, labels = logits(self.model, self.projector(self.features(at)), self.words, asked)
            loss = F.cross_entropy(found, labels[labels != -100])
            losses.append(loss.item())
            if given.naming:
                at = [r.randrange(len(self.train)) for _ in range(TOGETHER)]
                loss = loss + given.naming * self.naming.loss(self.projector, self.features(at), self.targets[at])
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
            self.optimizer.step()
            self.step += 1
            if self.step % 10 == 0:
                print(
                    f"{self.step} loss {sum(losses[-10:]) / 10:.3f} {minutes:.1f} min {time.process_time():.0f} cpu s",
                    flush=True,
                )
            if time.time() - saved > 60 * given.every:
                self.measure(minutes, sum(losses[-30:]) / len(losses[-30:]))
                saved = time.time()
        if not self.curve or self.curve[-1]["step"] < self.step:
            self.measure(given.minutes, sum(losses[-30:]) / max(1, len(losses[-30:])))

    def measure(self, minutes: float, loss: float) -> None:
        """A point of the learning curve on validation scenes, and a checkpoint."""
        scores = accuracy(self.model, self.projector, self.words, *self.checked())
        print("  validation", scores, flush=True)
        unseen, asked = self.checked("unseen")
        if len(unseen):
            found = accuracy(self.model, self.projector, self.words, unseen, asked)
            print("  unseen pictures", found, flush=True)
            scores["unseen"] = found
        self.curve.append({"step": self.step, "minutes": round(minutes, 1), "loss": round(loss, 4), **scores})
        self.save(minutes)


def load_weights(file: Path, projector: Projector, model: Decoder) -> None:
    """A checkpoint's weights into a projector and a decoder."""
    tensors = load_file(file)
    for at, module in (("projector.", projector), ("lora.", model.lora)):
        module.load_state_dict({k.removeprefix(at): v.float() for k, v in tensors.items() if k.startswith(at)})


@torch.no_grad()
def accuracy(
    model: Decoder, projector: Projector, words: Words, known: Tensor, asked: Sequence[Sequence[world.Question]]
) -> dict:
    """Per cent right, by kind and their mean."""
    hits: dict[str, list[bool]] = {}
    for first in range(0, len(known), 4):
        of = asked[first : first + 4]
        seen = known[first : first + 4].to(next(projector.parameters()).device)
        found, labels = logits(model, projector(seen), words, of)
        for some, good in zip(of, right(found, labels), strict=True):
            for q, ok in zip(some, good, strict=False):
                hits.setdefault(q.kind, []).append(ok)
    by_kind = {k: round(100 * sum(of) / len(of), 1) for k, of in hits.items()}
    return {
        "mean": round(sum(by_kind.values()) / len(by_kind), 1),
        **by_kind,
        "questions": sum(map(len, hits.values())),
    }


def options(description: str) -> argparse.ArgumentParser:
    """What a run may be told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", default=str(cache() / "run"))
    parser.add_argument("--start", help="a folder with weights.safetensors and run.json to go on from, if --run is new")
    parser.add_argument("--image-size", type=int, default=168)
    parser.add_argument("--minutes", type=float, default=75, help="of this run in all, resumed ones included")
    parser.add_argument("--every", type=float, default=8, help="minutes between checkpoints")
    parser.add_argument("--measure", type=int, default=20, help="validation scenes a checkpoint is measured on")
    parser.add_argument("--names", type=int, default=400, help="steps of the first stage")
    parser.add_argument("--naming", type=float, default=0.3, help="weight of the first stage's lesson in the second")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--projector-rate", type=float, default=3e-4)
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    Run(options(__doc__.splitlines()[0]).parse_args()).learn()
