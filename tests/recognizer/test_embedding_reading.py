"""Embeddings of others: every form of file gives the same scores, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from arcface_pl.cli import main
from arcface_pl.errors import DataError
from arcface_pl.evaluation.measure import Embedded, evaluate
from arcface_pl.recognizer.embedding_reading import is_embeddings, read_embeddings

DRAW = np.random.default_rng(0)
LABELS = np.arange(24) % 4
ROWS = (DRAW.normal(size=(4, 6))[LABELS] + DRAW.normal(size=(24, 6))).astype(np.float32)


def command(*words: Any) -> Any:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, words)])
    return caught.value.code


def test_every_form_gives_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = np.array(["ann", "bob", "cleo", "dan"])
    for folder in ("plain", "texts", "tensors"):
        (tmp_path / folder).mkdir()
    np.savez("a.npz", embeddings=ROWS, labels=LABELS, classes=names[LABELS])
    np.save("plain/embeddings.npy", ROWS.astype(np.float64))
    np.save("plain/labels.npy", LABELS.astype(np.uint8))
    np.save("texts/embeddings.npy", ROWS)
    np.save("texts/labels.npy", names[LABELS])
    about = {"class_names": json.dumps(names.tolist())}
    save_file({"embeddings": ROWS, "labels": LABELS}, "tensors/embeddings.safetensors", about)
    wanted = evaluate(Embedded(torch.from_numpy(ROWS), torch.from_numpy(LABELS)), names.tolist())
    for number, given in enumerate(("a.npz", "plain", "plain/embeddings.npy", "texts", "tensors")):
        assert command(given, "--json", f"{number}.json") is None
        found = json.loads(Path(f"{number}.json").read_text())["unseen"]
        assert found["classes"] == (["0", "1", "2", "3"] if "plain" in given else names.tolist())
        assert {kind: found[kind] for kind in wanted.scores} == wanted.scores


def test_names_that_are_too_few_name_nothing(tmp_path: Path) -> None:
    for count in (3, 4):
        names = ["ann", "bob", "cleo", "dan"][:count]
        save_file(
            {"embeddings": ROWS, "labels": LABELS}, tmp_path / "e.safetensors", {"class_names": json.dumps(names)}
        )
        found = read_embeddings(tmp_path / "e.safetensors")
        assert list(found.class_names) == (names if count == 4 else ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"embeddings": ROWS}, "got 'no labels'; expected embeddings"),
        ({"embeddings": ROWS[:, 0], "labels": LABELS}, "embeddings: got"),
        ({"embeddings": ROWS.astype(int), "labels": LABELS}, "expected one or more rows of floating point"),
        ({"embeddings": ROWS, "labels": LABELS[:3]}, "labels: got .*expected 24 whole numbers or texts"),
        ({"embeddings": ROWS, "labels": LABELS - 1}, "labels: got -1"),
        ({"embeddings": ROWS, "labels": LABELS + 0.5}, "labels: got 'float64"),
        ({"embeddings": np.where(LABELS[:, None] == 2, np.nan, ROWS), "labels": LABELS}, "row 2: got 'NaN or inf'"),
        ({"embeddings": np.where(LABELS[:, None] == 3, 0, ROWS), "labels": LABELS}, "row 3: got 'a length of 0'"),
        ({"embeddings": ROWS.astype(np.float64) * 1e300, "labels": LABELS}, "row 0: got 'NaN or inf'"),
        ({"embeddings": ROWS, "labels": np.array([Path()] * 24, dtype=object)}, "allow_pickle"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message) as caught:
        read_embeddings(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("embeddings.npy", ROWS)
    with pytest.raises(DataError, match=r"got 'no labels'.* with labels\.npy beside it"):
        read_embeddings("embeddings.npy")
    Path("b.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="expected embeddings"):
        read_embeddings("b.npz")
    assert not is_embeddings("c.npz")
    save_file({"backbone.weight": ROWS, "head.weight": ROWS}, "model.safetensors")  # as export writes
    Path("damaged.safetensors").write_bytes(b"no tensors")
    assert not is_embeddings("model.safetensors")
    assert not is_embeddings("damaged.safetensors")
    assert not is_embeddings("best.ckpt")
    assert command("b.npz", "--data.root", "x") == 2
    assert "--data.root: not accepted with embeddings" in capsys.readouterr().err
