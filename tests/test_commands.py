"""The console command, and what all commands share: help, failures, exit codes, a quiet start."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import daso_tf
from daso_tf.commands import SUMMARIES, cli, presets, terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import PRESETS, parse

FLAG_FILES = sorted((Path(__file__).parents[1] / "flags").glob("*.cfg"))
ENTRIES = {
    **{name: f"daso_tf.{name.replace('-', '_')}" for name in SUMMARIES if name != "presets"},
    "describe": "daso_tf.data.describe",
    "preview": "daso_tf.augment.preview",
}


def one_line(captured):
    """What a command wrote to stderr, which is one line."""
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], []])
def test_help_lists_all_commands_on_one_screen(arguments, capsys):
    assert cli.call(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for name, summary in SUMMARIES.items():
        assert any(line.split() == [name, *summary.split()] for line in lines)


@pytest.mark.parametrize("name", SUMMARIES)
def test_help_of_a_command_lists_its_flags_with_their_defaults(name, capsys):
    assert cli.call([name, "--help"]) == 0
    help = capsys.readouterr().out
    assert help.startswith(f"usage: daso-tf {name}") and SUMMARIES[name] in help
    assert max(map(len, help.splitlines())) <= 100
    by_flag = {}
    for text in help.split("\n  --")[1:]:
        flag_name, _, about = text.partition("\n")
        by_flag[flag_name] = " ".join(about.partition("\n\n")[0].split())
    for flags in COMMANDS[name].sections.values():
        for flag in flags:
            about = by_flag[flag.name]
            default = flag.shown_default or as_text(flag.default)
            assert about.startswith(" ".join(flag.text.split()))
            assert flag.default in (None, "", []) or f"[default: {default}" in about


@pytest.mark.parametrize("name", ENTRIES)
def test_a_command_is_the_same_by_its_module(name):
    module = importlib.import_module(ENTRIES[name])
    docstring, *statements = ast.parse(Path(module.__file__).read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(statement) for statement in statements] == [
        "from daso_tf.commands import terminal",
        "from daso_tf.commands.command_lines import COMMANDS",
        f"if __name__ == '__main__':\n    terminal.run(COMMANDS['{name}'])",
    ]


def test_version(capsys):
    assert cli.call(["--version"]) == 0
    assert capsys.readouterr().out == f"{daso_tf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["estimate_distribution"], "did you mean 'estimate-distribution'?"),
        (["train", "--step=3"], "Unknown command line flag 'step'. Did you mean: steps"),
        (["train", "--steps=0"], "[1, inf)"),
        (["train", "--learner=fixmtch"], "value should be one of <"),
        (["train", "--flagfile=nowhere.cfg"], "nowhere.cfg"),
        (["train", "stray"], "'stray' is not a flag; settings are written --name=value"),
        (["presets", "stray"], "'stray' is not a flag"),
        (["workers"], "needs the number of workers"),
        (["workers", "none"], "needs the number of workers"),
        (["estimate-distribution"], "--output=FILE.json"),
        (["estimate-distribution", "--output=x.json"], "there is no training run"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert cli.call(arguments) == terminal.UNUSABLE == 2
    line = one_line(capsys.readouterr())
    assert line.startswith("daso-tf: ") and message in line


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "daso-tf: interrupted"),
        (ValueError("no such thing"), 2, "daso-tf: no such thing"),
        (FileNotFoundError(2, "not found", "a.png"), 2, "daso-tf: [Errno 2] not found: 'a.png'"),
    ],
)
def test_no_traceback(error, code, message, capsys, monkeypatch):
    def main(settings, arguments):
        raise error

    monkeypatch.setattr(presets, "main", main)
    assert cli.call(["presets"]) == code
    assert one_line(capsys.readouterr()) == message


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def main(settings, arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(presets, "main", main)
    with pytest.raises(KeyError):
        cli.call(["presets"])


def test_presets_are_listed_with_their_first_comment(capsys):
    assert cli.call(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FLAG_FILES) > 0
    for line, path in zip(lines, FLAG_FILES, strict=True):
        name, comment = line.split(maxsplit=1)
        assert name == path.name
        assert path.read_text().splitlines()[0] == f"# {comment}"
        assert comment.endswith(".")  # the first line is a whole sentence
        assert len(line) <= 100


@pytest.mark.parametrize("path", FLAG_FILES, ids=lambda path: path.name)
def test_a_preset_is_read_by_its_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([f"--flagfile={path.name}"], ["--flagfile", path.name]):
        settings, rest = parse(arguments, TRAIN.values())
        assert settings.model_dir == f"runs/{path.stem}" and not rest
    assert (PRESETS / path.name).read_text() == path.read_text()


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits_lt.cfg").write_text("--steps=7\n--flagfile=stl10_lt.cfg\n")
    Path("stl10_lt.cfg").write_text("--seed=3\n")
    settings, _ = parse(["--flagfile=digits_lt.cfg"], TRAIN.values())
    assert (settings.steps, settings.seed, settings.model_dir) == (7, 3, None)


def run(*arguments, **variables):
    """Runs Python; TensorFlow's log level is not set, as in a new terminal."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[1],
        env=environment | variables,
        capture_output=True,
        text=True,
    )


def test_a_healthy_command_prints_nothing_else(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "image.png")
    paths = [str(tmp_path / name) for name in ("image.png", "sheet.png")]
    process = run("-m", "daso_tf", "preview", "--side=16", *paths)
    assert (process.returncode, process.stdout) == (0, f"Wrote {paths[1]}\n")
    assert process.stderr == ""


def test_verbosity_brings_the_messages_back():
    process = run("-m", "daso_tf.predict", "--verbosity=info")
    assert process.returncode == 2
    *messages, last = process.stderr.splitlines()
    assert last == "daso-tf: needs a model and images: --model=FOLDER PATH..."
    assert any("tensorflow" in line.lower() or "oneDNN" in line for line in messages)


LIGHT = [
    ["--help"],
    ["--version"],
    ["trian"],
    ["presets"],
    ["workers", "none"],
    *([name, "--help"] for name in SUMMARIES),
    ["train", "--step=3"],
    ["train", "--learner=fixmtch"],
    ["train", "--flagfile=nowhere.cfg"],
    ["train", "--logit_adjustment=1", "--balanced_head=abc"],
    ["train", "--open_set", "--pseudo_labeler=crest"],
    ["train", "--device_data", "--strategy=mirrored"],
    ["train", "--learner=supervised", "--compare_labels_only"],
    ["predict", "--coverage=2"],
]


def test_help_and_wrong_flags_do_not_import_tensorflow():
    """What takes seconds to import is not needed for them, and only one command is imported."""
    heavy = ["keras", "matplotlib", "scipy", "sklearn", "tensorflow", "tensorflow_datasets"]
    program = f"""
import sys
sys.argv[0] = "daso-tf"
from daso_tf.commands import cli
for arguments in {LIGHT}:
    cli.call(arguments)
print(*sorted(name for name in sys.modules if name in {heavy}))
print(*sorted(name for name in sys.modules if name.startswith("daso_tf.commands.")))
"""
    done = run("-c", program)
    *_, imported, commands = done.stdout.splitlines()
    assert imported == ""
    assert done.stderr.count(" does not go with ") == 4
    names = ("cli", "command_lines", "of_run", "presets", "terminal", "workers")
    assert commands.split() == [f"daso_tf.commands.{name}" for name in names]


def test_the_package_needs_nothing_of_its_root_but_the_version():
    """In a command, `daso_tf` itself has no other name."""
    root = Path(daso_tf.__file__).parent
    needed = {
        node.attr
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "daso_tf"
    }
    assert needed == {"__version__"}


def test_the_module_of_a_command_does_not_import_tensorflow_for_help():
    imported = run("-X", "importtime", "-m", "daso_tf.train", "--help").stderr
    assert "daso_tf.commands.command_lines" in imported
    assert " tensorflow\n" not in imported
