"""benchmarks/scoreboard.py: what it refuses, and the tables of finished runs."""

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import scoreboard

DATA = "--data_dir=pictures"


def finished(output, track, distribution, method, seed, balanced):
    """Writes the row of a run as the benchmark does."""
    run = scoreboard.Run(track, distribution, method, seed)
    scores = dict(zip(scoreboard.MEASURES, (balanced, 50, 80, 50, 20, 1.5), strict=True))
    run.folder(output).mkdir(parents=True)
    (run.folder(output) / "row.json").write_text(json.dumps(run._asdict() | scores))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2"])
def test_a_shard_is_one_of_n(shard, capsys):
    with pytest.raises(SystemExit) as stopped:
        scoreboard.parser().parse_args([DATA, "--output=out", f"--shard={shard}"])
    assert stopped.value.code == 2
    assert "must be I/N with 1 <= I <= N" in capsys.readouterr().err


def test_two_rebalancers_are_refused_before_a_run_starts(tmp_path, monkeypatch):
    method = "both: --pseudo_labeler=simpro --balanced_head=abc"
    argv = ["scoreboard.py", DATA, f"--output={tmp_path}", f"--method={method}"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match=r"^both: .*abc does not go with .*simpro"):
        scoreboard.main()
    assert not list(tmp_path.iterdir())


def test_every_method_can_be_had_on_one_of_the_tracks():
    for text in scoreboard.METHODS:
        flags = text.partition(": ")[2].split()
        reasons = [
            scoreboard.refusal([*scoreboard.flags_of(track, "uniform", Path("pictures")), *flags])
            for track in scoreboard.TRACKS
        ]
        assert None in reasons, (text, reasons)


def test_rows_are_ranked_by_the_mean_of_the_distributions(tmp_path):
    for distribution, good, bad in (
        ("consistent", 60, 61),
        ("uniform", 58, 50),
        ("reversed", 62, 51),
    ):
        finished(tmp_path, "scratch", distribution, "fixmatch", 0, good)
        finished(tmp_path, "scratch", distribution, "supervised", 0, bad)
    finished(tmp_path, "scratch", "consistent", "fixmatch", 1, 64)
    finished(tmp_path, "scratch", "consistent", "my method", 0, 99)  # not run on the others yet
    scoreboard.write(tmp_path, {("scratch", "mixmatch"): "it <mixes> images."})

    table = (tmp_path / "scoreboard.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    # Student's t with one degree of freedom: 12.706 * 2.828 / sqrt(2).
    assert lines[0].startswith("| 1 | fixmatch | 1 to 2 | 62.0 ± 25.4 | 58.0 | 62.0 | 60.7 |")
    assert lines[1].startswith("| 2 | supervised | 1 | 61.0 | 50.0 | 51.0 | 54.0 |")
    assert lines[2].startswith("|  | my method | 0 to 1 | 99.0 | missing | missing |  |")
    assert lines[3].startswith("| | mixmatch [1] | &ndash; |")
    assert "[1] it <mixes> images." in table
    with (tmp_path / "scoreboard.csv").open() as file:
        assert [row["balanced"] for row in csv.DictReader(file) if row["seed"] == "1"] == ["64"]
    page = (tmp_path / "scoreboard.html").read_text()
    assert "it &lt;mixes&gt; images." in page and "data:image/png;base64," in page
    assert "http" not in page


def test_rows_of_another_machine_count_as_finished(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for distribution in scoreboard.DISTRIBUTIONS:
        finished(there, "features", distribution, "fixmatch", 0, 60)
    finished(here, "features", "uniform", "fixmatch", 0, 66)
    scoreboard.write(there, {})
    table = there / "scoreboard.csv"
    # The tail of one run is not known.
    table.write_text(
        table.read_text().replace(
            "reversed,fixmatch,0,60,50,80,50,20", "reversed,fixmatch,0,60,50,80,50,"
        )
    )
    scoreboard.take_over(table, here)
    scoreboard.write(here, {})
    line = (here / "scoreboard.md").read_text().splitlines()[-1]
    assert line == "| 1 | fixmatch | 1 | 60.0 | 66.0 | 60.0 | 62.0 |  | 50.0 | 1.5 |"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("track,seed\n", "its columns are"),
        ("{columns}\nscratch,uniform,fixmatch,zero,50,,,,,\n", "invalid literal"),
        ("{columns}\nscratch,diagonal,fixmatch,0,50,,,,,\n", "is no run of this protocol"),
        (None, "No such file"),
    ],
)
def test_another_table_is_refused_before_a_run_starts(content, found, tmp_path, monkeypatch):
    table, output = tmp_path / "table.csv", tmp_path / "out"
    if content is not None:
        columns = ",".join([*scoreboard.Run._fields, *scoreboard.MEASURES])
        table.write_text(content.format(columns=columns))
    argv = ["scoreboard.py", DATA, f"--output={output}", f"--rows={table}"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match=found):
        scoreboard.main()
    assert not output.exists()
