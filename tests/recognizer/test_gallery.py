from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from arcface_pl.errors import GalleryError
from arcface_pl.recognizer import search
from arcface_pl.recognizer.gallery import Gallery


def unit(rows: int, seed: int, dim: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def gallery() -> Gallery:
    gallery = Gallery(8)
    for index, name in enumerate(("a", "ß/..", "x\ny")):
        gallery.add(name, unit(index + 1, index))
    return gallery


def test_what_was_saved_comes_back(gallery: Gallery, tmp_path: Path) -> None:
    for _ in range(2):
        gallery.save(tmp_path / "g", "model")
    back = Gallery.load(tmp_path / "g", "model")
    assert back.counts == gallery.counts == {"a": 1, "ß/..": 2, "x\ny": 3}
    assert back.search(unit(4, 9), 3) == gallery.search(unit(4, 9), 3)
    gallery.remove("a")
    gallery.save(tmp_path / "g", "model")
    assert len(list((tmp_path / "g").iterdir())) == 2  # the old embeddings are gone


def test_a_crash_between_the_two_files_leaves_the_old_gallery(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.save(tmp_path, "model")
    monkeypatch.setattr("arcface_pl.recognizer.manifest._digest", lambda index: 1 / 0)
    gallery.add("late", unit(1, 5))
    with pytest.raises(ZeroDivisionError):
        gallery.save(tmp_path, "model")
    monkeypatch.undo()
    assert Gallery.load(tmp_path, "model").names == ["a", "ß/..", "x\ny"]


def test_another_models_gallery_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path, "model")
    with pytest.raises(GalleryError, match=r"gallery.json: it was made by another model"):
        Gallery.load(tmp_path, "other")


def test_every_damaged_byte_and_every_cut_is_one_error(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path, "model")
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for place in range(0, len(whole), 7):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
            with pytest.raises(GalleryError, match=str(tmp_path)):
                Gallery.load(tmp_path, "model")
            file.write_bytes(whole[:place])
            with pytest.raises(GalleryError, match=str(tmp_path)):
                Gallery.load(tmp_path, "model")
        file.unlink()
        with pytest.raises(GalleryError, match=str(tmp_path)):
            Gallery.load(tmp_path, "model")
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("queries", "directions", "wanted"),
    [(1, 1, 5), (1, 300, 7), (2, 300, 7), (8, 300, 7), (9, 300, 7), (70, 300, 1), (70, 300, 7), (0, 3, 2)],
)
def test_search_in_blocks_is_that_of_the_whole_product(
    queries: int, directions: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK", 64)
    first, second = unit(queries, 1), unit(directions, 2)
    scores, positions = search.nearest(first, second, wanted)
    expected = (first.double() @ second.double().T).topk(min(wanted, directions), dim=1)
    torch.testing.assert_close(scores.double(), expected.values, rtol=0, atol=1e-6)
    assert positions.equal(expected.indices)


def test_faiss_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    first, second = unit(1, 1), unit(300, 2)
    scores, positions = search.nearest(first, second, 7)
    monkeypatch.setattr(search, "FAISS_FROM", 1)
    faiss_scores, faiss_positions = search.nearest(first, second, 7)
    assert faiss_positions.equal(positions)
    torch.testing.assert_close(faiss_scores, scores, rtol=0, atol=1e-6)
