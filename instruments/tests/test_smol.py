"""The instrument of pretrained parts: its world, its training forward, its assembly; tiny configs, drawn pictures."""

import json
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

pytest.importorskip("matplotlib")
from instruments.smol import (
    build,
    bundles,
    decoder,
    easy,
    features,
    mix,
    naming,
    pictures,
    probe,
    publish,
    train,
    world,
)

TEXT = dict(
    vocab_size=64, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4},
)  # fmt: skip


def disc(source):
    """A picture that every name has: no package is needed."""
    image = Image.new("RGBA", (40, 30))
    ImageDraw.Draw(image).ellipse((0, 0, 39, 29), (len(source) * 5 % 255, 90, 40, 255))
    return image


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr(pictures, "cutout", disc)
    monkeypatch.setattr(pictures, "grounds", lambda split: (Image.new("RGB", (700, 660), (90, 120, 150)),))


def llama(seed=0):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=0.9 / p.shape[-1] ** 0.5)
    return model


def lively(model, rank=2):
    """The same weights with LoRA that does something."""
    made = decoder.Decoder(LlamaConfig(**TEXT), model.state_dict(), rank, torch.float32)
    with torch.no_grad():
        for p in made.lora.values():
            p.normal_(std=0.2)
    return made


def test_a_scene_is_the_same_twice_and_answers_fit_its_boxes(drawn):
    for n in range(40):
        image, placed = world.scene("test", n, 96)
        again, _ = world.scene("test", n, 96)
        assert image.tobytes() == again.tobytes()
        assert len({p.cell for p in placed}) == len(placed)
        asked = world.questions(placed, world.chance(n))
        yes = [q.answer for q in asked if q.kind == "exist"]
        assert yes.count("yes") == yes.count("no")
        for q in asked:
            if q.kind == "what":
                (hit,) = (p for p in placed if world.CELLS[p.cell] == q.text[15:-1])
                assert (hit.name, (hit.box,)) == (q.answer, q.needs)
            if q.kind == "relation":
                first, second = ([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2] for b in q.needs)
                step = next(s for s in world.STEPS if s[2] in q.text)
                assert (second[0] - first[0]) * step[0] + (second[1] - first[1]) * step[1] > 0.2


def test_half_of_the_names_keep_a_picture_for_the_test_split():
    things = pictures.things()
    held = [t for t in things if t.test]
    assert len(held) * 2 == len(things) and len({t.name for t in things}) == len(things)
    for t in things:
        shown = set(t.pictures("train"))
        assert shown >= set(t.pictures("validation")) and len(shown) >= 7
        assert not shown & set(t.unseen) and not shown & set(t.test) and not set(t.unseen) & set(t.test)
        assert t.pictures("test") == (t.test or t.known) and t.pictures("unseen") == (t.unseen or t.known)


def test_training_alone_varies_how_things_look(drawn, monkeypatch):
    seen = []
    monkeypatch.setattr(world, "varied", lambda plate, r: seen.append(r.random()) or plate)
    for n in range(4):
        world.scene("test", n, 96)
    assert not seen
    for n in range(4):
        world.scene("train", n, 96)
    assert len(set(seen)) == len(seen) > 3


def test_a_varied_look_is_chance_alone_and_stays_a_cutout():
    looks = [world.varied(disc("a"), world.chance(n)) for n in (0, 0, 1, 2, 3)]
    assert looks[0].tobytes() == looks[1].tobytes()
    assert all(v.mode == "RGBA" and v.getchannel("A").getbbox() for v in looks)
    assert len({v.tobytes() for v in looks}) == 4


def record(name_at, flags, *rest):
    return struct.pack(">IH", name_at, flags) + struct.pack(">II", *rest) + bytes(8)


def test_files_in_a_bundle():
    names, at = b"", {}
    for name in ("", "a", "b.svg", "c.png", "d.zst"):
        at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    packed = zlib.compress(b"<svg/>")
    blobs = [struct.pack(">I", len(b)) + b for b in (struct.pack(">I", 6) + packed, b"png", b"other")]
    starts = [0, len(blobs[0]), len(blobs[0]) + len(blobs[1])]
    tree = record(0, 2, 1, 1) + record(at["a"], 2, 3, 2)
    tree += b"".join(
        record(at[n], f, 0, s) for n, f, s in zip(("b.svg", "c.png", "d.zst"), (1, 0, 4), starts, strict=True)
    )
    data, head = b"".join(blobs), 20
    offsets = head, head + len(tree), head + len(tree) + len(data)
    made = b"qres" + struct.pack(">4I", 3, *offsets) + tree + data + names
    assert dict(bundles.entries(made)) == {"/a/b.svg": b"<svg/>", "/a/c.png": b"png"}
    with pytest.raises(ValueError, match="qres"):
        next(bundles.entries(b"PK"))


def test_the_naming_lesson_is_learnt():
    made = lively(llama())
    lesson = naming.Naming(Letters(), made, 6)
    projector = train.Projector(3 * 8, 24)
    placed = [
        [world.Placed("cow", "animal", 0, (0.0, 0.0, 0.4, 0.4))],
        [world.Placed("owl", "animal", 8, (0.6, 0.6, 1, 1))],
    ]
    target = lesson.targets(placed)
    assert target[0, 0] == lesson.row["cow"] and target[0, -1] == lesson.row["background"]
    torch.manual_seed(0)
    seen = torch.randn(2, 3, 36, 8)
    before, optimizer = lesson.scores(projector, seen, target), torch.optim.Adam(projector.parameters(), 1e-2)
    for _ in range(150):
        loss = lesson.loss(projector, seen, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = lesson.scores(projector, seen, target)
    assert after["things"] > 90 > before["things"] and after["places"] > before["places"]


def test_easy_vqa_is_asked_with_its_own_split(monkeypatch, tmp_path):
    shape = Image.new("RGB", (64, 64), (240, 250, 245))
    ImageDraw.Draw(shape).rectangle((16, 32, 31, 47), (200, 0, 0))
    shape.save(tmp_path / "a.png")
    asked = [["what is the red shape?", "rectangle", 3900], *[[f"is there a {c} shape?", "no", 3900] for c in "abcdef"]]
    with zipfile.ZipFile(tmp_path / "easy.whl", "w") as wheel:
        wheel.writestr("easy_vqa/data/train/questions.json", json.dumps(asked))
        wheel.write(tmp_path / "a.png", "easy_vqa/data/train/images/3900.png")
    monkeypatch.setattr(easy, "archive", lambda: zipfile.ZipFile(tmp_path / "easy.whl"))
    image, box = easy.picture("validation", 0, 32)
    assert image.size == (32, 32) and box == (0.25, 0.5, 0.5, 0.75)
    found = easy.questions("validation", 0, world.chance(0), box)
    assert [q.kind for q in found] == ["shape"] + ["exist"] * easy.YES_NO and found[0].needs == (box,)
    assert found[0].answer == "rectangle"
    easy.rows.cache_clear()


def test_tokens_of_a_box():
    assert world.cells_of((0.0, 0.0, 0.5, 0.25), 4) == [0, 1]
    assert world.cells_of((0.99, 0.99, 1.0, 1.0), 4) == [15]
    assert world.cells_of((0.6, 0.6, 0.61, 0.61), 4) == [10]


@torch.no_grad()
def test_a_shared_prefix_is_each_question_alone():
    model = llama()
    made = lively(model)
    merged = decoder.merged(model.state_dict(), dict(made.lora.items()))
    model.load_state_dict(merged)
    prefix, text = torch.randn(2, 7, 24), torch.randn(2, 3, 5, 24)
    kept = torch.tensor([[0, 1, 3, 4, 8, 9, 11]] * 2)
    found = made(prefix, text, kept, torch.tensor([12, 12]))
    for k in range(3):
        row = torch.cat([prefix, text[:, k]], 1)
        places = torch.cat([kept, torch.arange(12, 17).expand(2, -1)], 1)
        want = model.model(inputs_embeds=row, position_ids=places).last_hidden_state[:, 7:]
        assert_close(found[:, k], want, rtol=1e-4, atol=1e-4)


class Letters:
    """A tokenizer of bytes in the range of the tiny vocabulary."""

    def __call__(self, text, add_special_tokens=False):
        return type("Out", (), {"input_ids": [ord(c) % 60 for c in text]})


@torch.no_grad()
def test_kept_tokens_are_those_tokens_at_their_places():
    made, words = lively(llama()), train.Words(Letters())
    visual, kept = torch.randn(1, 9, 24), torch.tensor([[2, 5]])
    asked = [[world.Question("what", "Is it?", "yes", ()), world.Question("what", "Where is it?", "top", ())]]
    plain, labels = train.logits(made, visual, words, asked)
    cut, _ = train.logits(made, visual[:, [2, 5]], words, asked, kept, 9)
    # With one layer, tokens that no question sees are as good as absent.
    hidden = torch.tensor([0, 1, 3, 4, 6, 7, 8]) + len(words.before)

    def watch(layer, scores, own):
        return scores.index_fill(-1, hidden, float("-inf"))

    assert (cut - plain).abs().max() > 1e-2
    assert len(train.right(plain, labels)[0]) == 2
    one = decoder.Decoder(LlamaConfig(**TEXT | {"num_hidden_layers": 1}), llama().state_dict(), 0, torch.float32)
    want, _ = train.logits(one, visual, words, asked, watch=watch)
    found, _ = train.logits(one, visual[:, [2, 5]], words, asked, kept, 9)
    assert_close(found, want, rtol=1e-4, atol=1e-4)


def tiny_tower():
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=12, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return config, model


@torch.no_grad()
def test_the_built_model_is_what_was_trained():
    config, tower = tiny_tower()
    llm = llama()
    made = lively(llm)
    projector = train.Projector(3 * 12, 24)
    projector.mean.normal_()
    projector.std.uniform_(0.5, 2)
    weights = {f"projector.{k}": v for k, v in projector.state_dict().items()}
    weights |= {f"lora.{k}": v for k, v in made.lora.items()}
    model = build.assemble(tower.state_dict(), config, llm.state_dict(), LlamaConfig(**TEXT), weights, 64).eval()
    pixels, text = torch.randn(1, 3, 28, 28), torch.tensor([[5, 6, 7]])
    visual = projector(features.features_BLNC(tower, pixels))
    ids = torch.cat([torch.tensor([[3, 4]]), torch.full((1, 4), 64), text], 1)
    found = model(input_ids=ids, pixel_values=pixels).logits[:, -3:, :64]
    prefix = torch.cat([made.embed[torch.tensor([[3, 4]])], visual], 1)
    states = made(prefix, made.embed[text][:, None], torch.arange(6)[None], torch.tensor([6]))
    assert_close(found, (states @ made.embed.T)[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [168, 336])
def test_the_published_weights_are_whole_and_of_their_size(size):
    folder = build.parts.published(size)
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        sha256, name = line.split()
        build.parts.check(folder / name, sha256)
    assert json.loads((folder / "run.json").read_text())["options"]["image_size"] == size


def test_weights_that_nobody_published_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["build", str(tmp_path), "--image-size", "224"])
    with pytest.raises(SystemExit, match="168 and 336"):
        build.main()


def test_what_is_published_comes_back(tmp_path):
    """Half precision, but for what is divided by; the machine's own folders are not written down."""
    (tmp_path / "run").mkdir()
    tensors = {"projector.std": torch.tensor([1 + 2**-20]), "lora.a": torch.ones(2)}
    save_file(tensors, tmp_path / "run" / "weights.safetensors")
    (tmp_path / "run" / "run.json").write_text('{"step": 3, "options": {"run": "x", "start": "y", "scenes": 4}}')
    publish.main(tmp_path / "run", tmp_path / "out")
    found = load_file(tmp_path / "out" / "weights.safetensors")
    assert found["lora.a"].dtype == torch.half and torch.equal(found["projector.std"], tensors["projector.std"])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"] == {"scenes": 4}
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        build.parts.check(tmp_path / "out" / line.split()[1], line.split()[0])


def test_weights_between_two_checkpoints(tmp_path):
    for name, value in (("start", 1.0), ("run", 3.0)):
        (tmp_path / name).mkdir()
        save_file({"lora.a": torch.full((2, 3), value)}, tmp_path / name / "weights.safetensors")
    (tmp_path / "run" / "run.json").write_text('{"step": 7}')
    mix.mixed(tmp_path / "start", tmp_path / "run", 0.25, tmp_path / "out")
    assert_close(load_file(tmp_path / "out" / "weights.safetensors")["lora.a"], torch.full((2, 3), 1.5))
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == {"step": 7, "share": 0.25}


def test_the_probe_sees_each_thing_in_its_own_box(drawn, monkeypatch, tmp_path):
    """A tower that says which token it is: what is pooled is the mean and the maximum over the thing's tokens."""
    monkeypatch.setenv("FOVEATE_SMOL", str(tmp_path))
    monkeypatch.setattr(probe, "tower", lambda size: torch.nn.Identity())
    number = torch.arange(16.0).view(1, 1, 16, 1).expand(10, 3, 16, 384)
    monkeypatch.setattr(features, "features_BLNC", lambda model, pixels: number[: len(pixels)])
    seen, names = probe.pooled("unseen", 3, 2, 56)
    things = [t.name for t in pictures.things()]
    placed = [p for n in (3, 4) for p in world.layout("unseen", n, 56).placed if p.name in things]
    assert [things[i] for i in names] == [p.name for p in placed]
    for row, p in zip(seen, placed, strict=True):
        tokens = torch.tensor(world.cells_of(p.box, 4)).float()
        assert_close(row[:768], tokens.mean().expand(768))
        assert_close(row[768:], tokens.max().expand(768))


def test_the_probe_learns_what_is_linear():
    torch.manual_seed(3)
    names = torch.arange(48).repeat(6)
    seen = torch.nn.functional.one_hot(names).float() + 0.1 * torch.randn(288, 48)
    linear, mean, std = probe.learnt(seen, names)
    assert (linear((seen - mean) / std).argmax(-1) == names).all()


def test_position_embeddings_resampled_to_their_own_grid_stay():
    places = torch.randn(1, 26, 4)
    again = build.parts.at_grid({"embeddings.position_embeddings": places}, 5)["embeddings.position_embeddings"]
    assert_close(again, places)


def test_the_built_model_answers_its_samples():
    folder = os.environ.get("FOVEATE_SMOL_MODEL")
    if not folder:
        pytest.skip("not built: `python -m instruments.smol.build OUT`, then FOVEATE_SMOL_MODEL=OUT")
    from foveate.data import load as examples
    from foveate.engines.hf import load
    from foveate.engines.score import answer

    engine, asked = load(folder), examples(Path(build.__file__).parent / "samples")[:24]
    said = answer(engine, asked, max_new_tokens=5)
    assert sum(s.text == e.answers[0] for s, e in zip(said, asked, strict=True)) > len(asked) / 3


def test_the_samples_are_of_permissive_pictures_only():
    folder = Path(build.__file__).parent / "samples"
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert {r["image"] for r in rows} == {p.name for p in folder.glob("*.png")}
    for thing in pictures.things():
        shown = thing.pictures("samples")
        assert shown and all(source.startswith("e:") for source in shown)
