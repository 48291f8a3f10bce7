"""What a picture shows: kept cells untouched, dropped cells dimmed, each block over the part of the picture it sees."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from foveate import FoveateError, files, viz
from foveate.hf.report import CutReport, Held, ImageReport, Report
from foveate.selection import Block, Grid

CLIP = SimpleNamespace(
    do_resize=True, do_center_crop=True, size={"shortest_edge": 100}, crop_size={"height": 100, "width": 100}
)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(90, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def cut(at: Any, kept: list[int]) -> CutReport:
    return CutReport(at, len(kept), len(kept), lambda: torch.tensor(kept))


def report(*images: tuple[int, Grid, dict[Any, list[int]]], kind: str = "image") -> Report:
    entries = tuple(
        ImageReport(0, i, kind, n, grid, tuple(cut(at, k) for at, k in cuts.items()), (n,))
        for i, (n, grid, cuts) in enumerate(images)
    )
    return Report(entries, Held(1, 1), Held(1, 1), None, None, (0,), (), ())


def cells(panel: Image.Image, rows: int, columns: int) -> np.ndarray:
    """[rows, columns, height, width, 3]"""
    a = np.asarray(panel, dtype=int)
    return a.reshape(rows, a.shape[0] // rows, columns, a.shape[1] // columns, 3).swapaxes(1, 2)


def test_kept_cells_are_untouched_and_dropped_ones_dimmed() -> None:
    picture, kept = noise(120, 120), [0, 5, 6, 15]
    panel = viz.dim(picture, viz.place(picture, (Block(0, 4, 4),)), kept)
    before, after = cells(viz.fit(picture), 4, 4), cells(panel, 4, 4)
    for i in range(16):
        was, now = before[i // 4, i % 4], after[i // 4, i % 4]
        if i in kept:
            assert np.array_equal(was, now)
        else:
            # The border of a kept neighbour may be drawn on a dropped cell's outermost pixels.
            assert now[2:-2, 2:-2].mean() < 0.4 * was[2:-2, 2:-2].mean()
            assert now[2:-2, 2:-2].max() < 90


def test_all_kept_is_the_picture_itself() -> None:
    picture = noise(100, 60)
    panel = viz.dim(picture, viz.place(picture, (Block(0, 3, 5),)), range(15))
    assert np.array_equal(np.asarray(panel), np.asarray(viz.fit(picture)))


def test_newline_tokens_are_no_cells() -> None:
    picture = noise(120, 120)
    grid = (Block(0, 2, 2), Block(4, 2, 3, newline=True))
    placed = viz.place(picture, grid)
    assert [p.block for p in placed] == [grid[1]]
    # 4..6 and 8..10 are cells, 7 and 11 end the rows; token 8 begins the second row.
    panel = viz.dim(picture, placed, [7, 8, 11])
    same = (np.asarray(panel) == np.asarray(viz.fit(picture))).all(-1)
    assert same[168:, :112].all()
    assert not same[:160].any()
    assert not same[:, 120:].any()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((200, 100), (50, 0, 150, 100)),
        ((100, 300), (0, 100, 100, 200)),
        ((50, 50), (0, 0, 50, 50)),
        ((400, 200), (100, 0, 300, 200)),
    ],
)
def test_a_cropping_processor_shows_the_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert viz.seen_box(size, CLIP) == pytest.approx(box)


def test_processors_that_show_all_of_it() -> None:
    for processor in (
        None,
        SimpleNamespace(**vars(CLIP) | {"do_center_crop": False}),
        SimpleNamespace(**vars(CLIP), image_grid_pinpoints=[[1, 1]]),
        # These pad a batch to its largest picture, or to as many tiles.
        PixtralImageProcessorPil(),
        Idefics3ImageProcessorPil(),
    ):
        assert viz.seen_box((200, 100), processor) == (0, 0, 200, 100)
    for crop in (False, True):
        padded = LlavaImageProcessorPil(do_pad=True, do_center_crop=crop)
        assert viz.seen_box((200, 100), padded) == pytest.approx((0, -50, 200, 150))


def test_what_the_model_never_saw_fades() -> None:
    picture = noise(200, 100)
    panel = np.asarray(viz.dim(picture, viz.place(picture, (Block(0, 2, 2),), CLIP), range(4)), dtype=int)
    assert panel.shape == (168, 336, 3)
    assert panel[:, :83].min() > 200
    assert panel[:, 253:].min() > 200
    assert np.array_equal(panel[:, 84:252], np.asarray(viz.fit(picture))[:, 84:252])


@pytest.mark.parametrize(
    ("size", "tiles", "columns"),
    [((400, 100), 4, 4), ((100, 100), 4, 2), ((100, 200), 2, 1), ((300, 200), 6, 3), ((100, 100), 1, 1)],
)
def test_tiles_fill_the_picture_and_the_thumbnail_is_left_out(size: tuple[int, int], tiles: int, columns: int) -> None:
    picture = noise(*size)
    placed = viz.place(picture, tuple(Block(4 * i, 2, 2) for i in range(tiles + 1)))
    assert len(placed) == tiles
    area = sum((p.box[2] - p.box[0]) * (p.box[3] - p.box[1]) for p in placed)
    assert area == pytest.approx(size[0] * size[1])
    assert len({p.box[0] for p in placed}) == columns


def test_one_row_an_image_and_one_panel_a_cut() -> None:
    one = (16, (Block(0, 4, 4),), {"input": [1, 2], 3: [2]})
    pictures = [noise(60, 60), noise(120, 60)]
    sheet = viz.overlay(pictures, report(one, one), title="what color is the star?   blue")
    # Three panels of 336 with gaps of 16 and margins of 24; rows of 336 and 168 with 44 of text; a title of 40.
    assert sheet.size == (3 * 336 + 2 * 16 + 2 * 24, 40 + 336 + 168 + 2 * 44 + 16 + 2 * 24)
    assert viz.overlay(pictures[:1], report(one)).height == 336 + 44 + 48


def test_rows_are_as_long_as_one_says() -> None:
    one = (4, (Block(0, 2, 2),), {"input": [0, 1, 2], 2: [0, 1], 3: [1]})
    wide, high = (viz.overlay([noise(30, 20)], report(one), columns=c) for c in (None, 2))
    assert wide.width > high.width and wide.height < high.height
    assert viz.overlay([noise(30, 20)], report(one), columns=4).size == wide.size


def test_video_frames_at_most_eight() -> None:
    grid = tuple(Block(4 * i, 2, 2) for i in range(20))
    frames = [noise(40, 40)] * 40
    sheet = viz.overlay([frames], report((80, grid, {"input": list(range(40))}), kind="video"))
    assert sheet.width == 8 * 168 + 7 * 16 + 2 * 24
    few = viz.overlay([noise(40, 40)], report((12, grid[:3], {"input": [0]}), kind="video"))
    assert few.width == 3 * 168 + 2 * 16 + 2 * 24


def test_tiles_are_drawn_as_the_picture_that_they_are_of() -> None:
    """Idefics3, SmolVLM and LFM2-VL report each tile, and the thumbnail at last, as an image."""
    tile = (Block(0, 2, 2),)
    apart = report(*[(4, tile, {"input": [i % 4], 2: []}) for i in range(5)])
    grid = tuple(Block(4 * i, 2, 2) for i in range(5))
    whole = report((20, grid, {"input": [0, 5, 10, 15, 16], 2: []}))
    picture = noise(80, 80)
    assert np.array_equal(*(np.asarray(viz.overlay([picture], r)) for r in (apart, whole)))
    scanned = SimpleNamespace(do_pan_and_scan=True)
    assert [p.block for p in viz.place(picture, grid, scanned)] == [grid[0]]
    with pytest.raises(FoveateError, match="2 pictures for a report about 5 images"):
        viz.overlay([picture] * 2, apart)


def test_a_report_needs_its_pictures() -> None:
    with pytest.raises(FoveateError, match="2 pictures for a report about 1"):
        viz.overlay([noise(8, 8)] * 2, report((4, (Block(0, 2, 2),), {"input": [0]})))
    with pytest.raises(FoveateError, match="no report to draw"):
        viz.overlay([noise(8, 8)], None)  # type: ignore[arg-type]
    with pytest.raises(FoveateError, match="columns is 0"):
        viz.overlay([noise(8, 8)], report((4, (Block(0, 2, 2),), {"input": [0]})), columns=0)


def test_long_text_is_cut_not_spilled() -> None:
    sheet = viz.sheet([[viz.Panel(noise(20, 20), "t" * 500, "s" * 500)]], "w" * 500)
    assert sheet.width == 168 + 48


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.webp"])
def test_saved_pictures_open_again(tmp_path: Path, name: str) -> None:
    viz.save(noise(30, 20), tmp_path / name)
    assert Image.open(tmp_path / name).size == (30, 20)
    assert [f.name for f in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_sheets_that_a_format_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FoveateError, match=r"4 x 66,000 pixels, too many for (JPEG|WEBP); write a .png"):
        viz.save(Image.new("RGB", (4, 66_000)), tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "says"), [("a.txt", "picture format"), ("a", "picture format"), ("no/a.png", "no folder"), (".", "folder")]
)
def test_names_that_cannot_be_written(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(FoveateError, match=says):
        viz.check_name(tmp_path / name)


def test_a_folder_that_takes_nothing_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the answer is the system's for others.
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (files.check_target, viz.check_name):
        with pytest.raises(FoveateError, match="nothing can be written"):
            check(tmp_path / "a.png")
    with pytest.raises(FoveateError, match="nothing can be written"):
        files.folder(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    files.write(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(FoveateError, match="No space left"):
        files.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_caption_owns_up_to_what_is_not_drawn() -> None:
    placed = viz.place(noise(60, 60), (Block(0, 2, 2), Block(4, 2, 3, newline=True)))
    assert viz.share([4, 5], 12, placed) == "2 of 12 kept (16.7%)"
    assert viz.share([0, 4, 7], 12, placed) == "3 of 12 kept (25.0%), 1 shown"
