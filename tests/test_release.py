"""What a user of the wheel meets first: version, names, help as typed, configs by name, completion, links."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import arcface_pl
from arcface_pl.cli import main
from arcface_pl.cli.config import named_configs, read_config
from arcface_pl.cli.report import versions
from arcface_pl.demo.openapi import document
from arcface_pl.errors import SettingsError

ROOT = Path(__file__).parents[1]


def test_the_version_is_one(capsys: pytest.CaptureFixture) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", arcface_pl.__version__)
    for flag in ("--version", "-V"):
        main([flag])
        assert capsys.readouterr().out == f"arcface-pl {arcface_pl.__version__}\n"
    assert re.search(
        rf"^## \[{arcface_pl.__version__}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name.replace("-", "_") == "arcface_pl":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    limits = {"max_images": 2, "max_bytes": 2, "max_waiting": 2}
    assert versions()["arcface_pl"] == arcface_pl.__version__  # results.json, after a run that was paid for
    assert document(limits)["info"]["version"] == arcface_pl.__version__


def test_dir_lists_the_classes_and_nothing_imports_torch_for_it() -> None:
    code = "import sys, arcface_pl as a; assert set(a.__all__) <= set(dir(a)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_type_checker_sees_a_typo(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text("from arcface_pl import ArcFaceHead, ArcFaceHed\n\nreveal_type(ArcFaceHead(8, 10).margin)\n")
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file=", str(snippet)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=220)
    assert 'has no attribute "ArcFaceHed"' in done.stdout
    assert 'Revealed type is "' in done.stdout
    assert 'Revealed type is "Any"' not in done.stdout


def test_python_m_is_the_same_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "arcface_pl", "fit", "--nosuch", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert " -m arcface_pl fit: error: --nosuch: " in done.stderr  # after the interpreter
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("arcface-pl", "usage: arcface-pl fit [flags]"),
        ("scripts/fit.py", "usage: python scripts/fit.py [flags]"),
        ("/x/arcface_pl/__main__.py", "usage: python -m arcface_pl fit [flags]"),
    ],
)
def test_help_speaks_of_what_was_typed(
    typed: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    monkeypatch.setattr(sys, "orig_argv", ["python", typed])
    main(["fit", "--help"])
    text = capsys.readouterr().out
    assert text.startswith(says)
    assert all(len(line) <= 80 for line in text.splitlines())
    if "arcface-pl" not in typed:
        assert "arcface-pl fit" not in text
    monkeypatch.setattr(sys, "argv", [typed.replace("fit", "export")])
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {says[7:].replace('fit', 'export').partition(' [flags')[0]} ")


def test_configs_go_by_name_and_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"fast", "source", "accurate", "folder", "face", "gpu"} < set(named_configs())
    for name in named_configs():
        assert (
            read_config(name)
            == read_config(f"{name}.yaml")
            == read_config(ROOT / "arcface_pl/configs" / f"{name}.yaml")
        )
    Path("fast.yaml").write_text("seed_everything: 7\n")
    assert read_config("fast.yaml") == {"seed_everything": 7}
    assert read_config("fast") != {"seed_everything": 7}
    Path("fast").write_text("seed_everything: 8\n")
    assert read_config("fast") == {"seed_everything": 8}
    for unknown in ("fsat", "fsat.yaml"):
        with pytest.raises(
            SettingsError, match=f"^--config: got '{unknown}'; expected a file, or one of accurate, .*source$"
        ):
            read_config(unknown)
    with pytest.raises(SettingsError, match="--config runs/fast.yaml: cannot be read"):
        read_config("runs/fast.yaml")


def test_a_named_config_is_run_and_helped_with(capsys: pytest.CaptureFixture) -> None:
    main(["-c", "fast", "fit", "--print_config"])
    printed = capsys.readouterr().out
    assert "class_path: arcface_pl.backbones.FastCNN" in printed
    main(["fit", "--help"])
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert set(named_configs()) - {"base"} <= words


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_its_shell_reads(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("shtab")
    main(["--print_shtab", shell])
    script = capsys.readouterr().out
    for word in ("fit", "recognize", "--model.head.margin", "--max_epochs", "CosFaceHead", "fast"):
        assert word in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        assert subprocess.run([shell, "-n", tmp_path / "script"], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("words", "wanted"), [("arcface-pl ex", "export"), ("arcface-pl fit --model.head Cos", "CosFaceHead")]
)
def test_bash_completes_commands_and_values(
    words: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("shtab")
    if not shutil.which("bash"):
        pytest.skip("no bash")
    main(["--print_shtab=bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = f'COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _shtab_arcface_pl; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f". {tmp_path}/script; {ask}"], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [wanted], done.stderr


@pytest.mark.parametrize("shell", ["fish", ""])
def test_another_shell_is_refused(shell: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--print_shtab", shell])
    assert exit.value.code == 2
    assert "expected bash, zsh" in capsys.readouterr().err


def test_links_of_the_long_description_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hatchling")
    hook: dict = {}
    exec((ROOT / ".ci" / "metadata.py").read_text(), hook)
    filled: dict = {}
    monkeypatch.setenv("ARCFACE_PL_REPOSITORY", "https://example.org/arcface_pl/")
    hook["Metadata"](str(ROOT), {}).update(filled)
    targets = re.findall(r"\]\(([^)\s]+)\)", filled["readme"]["text"])
    assert len(targets) > 10
    assert all(re.match(r"https?://|#", target) for target in targets)
    assert "https://example.org/arcface_pl/raw/main/scripts/figures/embedding_2d.png" in targets
    assert filled["urls"]["Changelog"] == "https://example.org/arcface_pl/blob/main/CHANGELOG.md"
    monkeypatch.delenv("ARCFACE_PL_REPOSITORY")
    plain: dict = {}
    hook["Metadata"](str(ROOT), {}).update(plain)
    assert plain["readme"]["text"] == (ROOT / "README.md").read_text()
    assert "urls" not in plain
