"""Which run a checkpoint belongs to."""

from pathlib import Path

from arcface_pl.checkpoints.runs import mark_run, run_of


def test_a_checkpoint_belongs_to_the_run_whose_folder_it_lies_in(tmp_path: Path) -> None:
    mark_run(tmp_path, "one")
    path = tmp_path / "checkpoints" / "last.ckpt"
    found = run_of(path, {"run": "one"})
    assert found is not None
    assert (found.folder, found.run_id) == (tmp_path, "one")
    for place, content in (
        (path, {"run": "two"}),  # of another run
        (path, {}),
        (path, {"run": 1}),
        (tmp_path / "copies" / "last.ckpt", {"run": "one"}),
        (tmp_path / "elsewhere" / "checkpoints" / "last.ckpt", {"run": "one"}),
    ):
        assert run_of(place, content) is None
