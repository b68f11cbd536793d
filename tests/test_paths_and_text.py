"""Paths of flags with `~` and variables, and text files with byte order marks."""

import codecs
import json

import pytest
from absl import flags
from command import completed, parsed

from daso_tf.commands import predict, terminal
from daso_tf.data.errors import DataError
from daso_tf.data.unlabeled_distribution import read
from daso_tf.run.flags_file import changes_since, write_flags_file

PATH_FLAGS = {
    "data_dir",
    "model_dir",
    "from_model_dir",
    "export_dir",
    "encoder_weights",
    "unlabeled_distribution",
}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("PICTURES", "/data/pictures")
    monkeypatch.delenv("MISSING", raising=False)


@pytest.mark.parametrize("name", sorted(PATH_FLAGS))
def test_every_path_flag_knows_the_home_folder_and_variables(name):
    assert parsed(f"--{name}=~/a b")[name] == "/home/ada/a b"
    assert parsed(f"--{name}=$PICTURES/x")[name] == "/data/pictures/x"
    assert parsed(f"--{name}=${{PICTURES}}2")[name] == "/data/pictures2"
    assert parsed(f"--{name}=a/~b/$1_$")[name] == "a/~b/$1_$"


def test_flags_of_other_commands_are_paths_too(capsys):
    assert terminal.call(predict.COMMAND, ["--model=~/export", __file__]) == 2
    assert "there is no model '/home/ada/export'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$MISSING/x", "no environment variable MISSING"),
        ("a${MISSING}", "no environment variable MISSING"),
        ("~nobody_here/x", "no home folder ~nobody_here"),
    ],
)
def test_a_variable_that_is_not_set_is_refused_and_makes_no_folder(path, message):
    with pytest.raises(flags.IllegalFlagValueError, match=f"--data_dir=.*{message}"):
        parsed(f"--data_dir={path}")
    with pytest.raises(flags.Error, match=f"--flagfile=.*{message}"):
        parsed(f"--flagfile={path}")


def test_a_path_that_exists_as_it_is_written_is_taken(tmp_path):
    (tmp_path / "$MISSING").mkdir()
    (tmp_path / "~").mkdir()
    assert parsed("--data_dir=$MISSING").data_dir == "$MISSING"
    assert parsed("--data_dir=~").data_dir == "~"


def test_a_run_continues_where_the_variables_have_changed(tmp_path, monkeypatch):
    given = ("--dataset=digits", "--encoder_weights=$PICTURES/w.npz", "--model_dir=~/run")
    file = tmp_path / "flags.cfg"
    write_flags_file(file, completed(*given))
    assert "--encoder_weights=/data/pictures/w.npz" in file.read_text()
    assert not changes_since(file, completed(*given)).settings
    monkeypatch.setenv("PICTURES", "/elsewhere")
    assert not changes_since(file, completed(f"--flagfile={file}")).settings


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    ],
    ids=["plain", "UTF-8", "UTF-16 LE", "UTF-16 BE"],
)
def test_text_files_may_have_a_byte_order_mark(encode, tmp_path):
    (tmp_path / "nested é.cfg").write_bytes(encode("--steps=7\n"))
    lines = "--dataset=digits\n\n  # a comment\n// another\n--flagfile=nested é.cfg\n--seed=3"
    (tmp_path / "flags.cfg").write_bytes(encode(lines))
    settings = parsed("--flagfile", "flags.cfg", "--seed=4")
    assert (settings.dataset, settings.steps, settings.seed) == ("digits", 7, 4)
    (tmp_path / "counts.json").write_bytes(encode(json.dumps({"猫": 2, "dog": 1})))
    assert read("counts.json", ["dog", "猫"]) == [1.0, 2.0]


def test_flag_files_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "binary.cfg").write_bytes(b"\xff\x00\x81")
    with pytest.raises(DataError, match=r"'binary\.cfg' is not text in UTF-8.*Save it as UTF-8"):
        parsed("--flagfile=binary.cfg")
    (tmp_path / "a.cfg").write_text("--flagfile=b.cfg")
    (tmp_path / "b.cfg").write_text("--flagfile=a.cfg")
    with pytest.raises(flags.Error, match=r"a\.cfg includes itself"):
        parsed("--flagfile=a.cfg")
    with pytest.raises(flags.CantOpenFlagFileError, match="directory"):
        parsed(f"--flagfile={tmp_path}")
