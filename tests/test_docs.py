"""The documentation against the code, and the check of its links."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import daso_tf
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.run import generations
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, default_of
from daso_tf.settings.methods import LEARNERS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))
problems = runpy.run_path(str(ROOT / "docs" / "check.py"))["problems"]

# Mentioned in addition to the flags of the commands: absl's flags, placeholders, flags of other
# programs and of benchmarks/.
OTHERS = {"flagfile", "help", "name", "even_decay", "constraint", "logdir", "nodes"}
OTHERS |= {"fewer", "method", "output", "rows", "seeds", "shard", "track"}


def flag_names():
    names = set(TRAIN) | OTHERS
    for command in COMMANDS.values():
        names |= {flag.name for flags in command.sections.values() for flag in flags}
    return names | {f"no{name}" for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_flags_that_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = text.split("### Changed")[0]
    mentioned = set(re.findall(r"(?<![\w-])--([a-z]\w+)(?![\w-])", text))
    assert mentioned <= flag_names()


def settings_tables():
    """Yields class, page, flag, argument and default of each row of a method's settings."""
    for page in METHODS:
        owner = None
        for line in page.read_text(encoding="utf-8").splitlines():
            if header := re.match(r"\| flag \| argument of `(\w+)` \|", line):
                owner = header[1]
            elif owner and line.startswith("| ") and not line.startswith("|---"):
                flag, argument, default = (cell.strip(" `-") for cell in line.split("|")[1:4])
                yield pytest.param(
                    page, owner, flag, argument, default, id=f"{owner}-{flag or argument}"
                )


def class_of(name):
    for package in (
        daso_tf,
        daso_tf.pseudo_labels,
        daso_tf.thresholds,
        daso_tf.balance,
        generations,
    ):
        if hasattr(package, name):
            return getattr(package, name)
    raise AssertionError(f"{name} is not public")


def arguments_of(owner):
    if not inspect.isclass(owner):
        return inspect.signature(owner).parameters
    bases = [base for base in owner.__mro__ if base.__module__.startswith("daso_tf")]
    parameters = {}
    for base in reversed(bases):
        parameters |= inspect.signature(base.__init__).parameters
    return parameters


@pytest.mark.parametrize(("page", "owner", "flag", "argument", "default"), settings_tables())
def test_settings_of_a_method_are_those_of_the_code(page, owner, flag, argument, default):
    arguments = arguments_of(class_of(owner))
    if argument:
        assert argument in arguments
    if flag:
        learner = page.stem if page.stem in LEARNERS else "fixmatch"
        value = default_of(flag, learner)
        if default:
            assert default == (f"{value:g}" if isinstance(value, float) else as_text(value))
    elif default:
        assert default == str(arguments[argument].default).removesuffix(".0")


@pytest.mark.parametrize(
    "name", [name for name in daso_tf.__all__ if inspect.ismodule(getattr(daso_tf, name))]
)
def test_every_public_module_has_a_page(name):
    page = (ROOT / "docs" / "api" / f"{name}.md").read_text(encoding="utf-8")
    assert f"automodule:: {getattr(daso_tf, name).__name__}\n" in page


def test_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {daso_tf.__version__}\n" in text


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_in_the_root_links_to_exist(page):
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert "steps_per_epoch=100, epochs=3" in code
    code = code.replace("steps_per_epoch=100, epochs=3", "steps_per_epoch=1, epochs=1, verbose=0")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["probabilities"].shape == (len(names["data"].test), 10)
    assert Path("digits.keras").is_file()
    assert Path("digits_export", "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="other.html">', None),
        ('<a href="other.html#part">', None),
        ('<a href="https://example.com/page">', None),
        ('<p id="here"><a href="#here">', None),
        ('<img src="picture.png">', None),
        ('<a href="missing.html">', "points to missing.html, but there is no such file"),
        ('<a href="other.html#absent">', "points to other.html#absent, but that page has no such"),
        ('<a href="#absent">', "points to #absent, but that page has no such anchor"),
        ('<img src="missing.png">', "points to missing.png, but there is no such file"),
        ('<script src="https://example.com/a.js"></script>', "from another server"),
        ('<link rel="stylesheet" href="//example.com/a.css">', "from another server"),
    ],
)
def test_link_check(tmp_path, html, problem):
    (tmp_path / "index.html").write_text(html)
    (tmp_path / "other.html").write_text('<h1 id="part">Part</h1>')
    (tmp_path / "picture.png").write_bytes(b"")
    found = list(problems(tmp_path))
    if problem is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith("index.html ") and problem in line


def test_link_check_finds_no_pages(tmp_path):
    assert "has no HTML page" in "".join(problems(tmp_path))
