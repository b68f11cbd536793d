"""What setup.py says of the package: its version, what it needs, its description."""

import ast
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import daso_tf

ROOT = Path(__file__).parents[1]
# Packages whose modules have another name.
MODULES = {"absl-py": "absl", "pillow": "PIL", "scikit-learn": "sklearn"}
OTHERS = {"daso_tf", "h5py"}  # TensorFlow requires h5py


class Package(NamedTuple):
    """The functions of setup.py, and the arguments that it gives to setuptools."""

    functions: dict
    arguments: dict


@pytest.fixture(scope="module")
def package():
    setuptools = pytest.importorskip("setuptools")
    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
        patch.chdir(ROOT)
        functions = runpy.run_path("setup.py")
    return Package(functions, arguments)


def normal(requirement):
    """The normalized name of a requirement such as `tensorflow[and-cuda]>=2.15`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_version_is_defined_once(package):
    assert package.arguments["version"] == daso_tf.__version__
    assert importlib.metadata.version("daso_tf") == daso_tf.__version__
    found = [path for path in ROOT.glob("daso_tf/**/*.py") if "__version__ =" in path.read_text()]
    assert found == [ROOT / "daso_tf" / "__init__.py"]


def test_every_imported_package_is_required(package):
    required = {normal(requirement) for requirement in package.arguments["install_requires"]}
    optional = {
        normal(one) for extra in package.arguments["extras_require"].values() for one in extra
    }
    modules = {MODULES.get(name, name.replace("-", "_")) for name in required} | OTHERS
    for path in sorted(ROOT.glob("daso_tf/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                known = name in modules or name in sys.stdlib_module_names
                assert known, f"{path} imports {name}, which no installation is sure to have"
    # Imported by `importlib`.
    assert {"imagehash", "safetensors", "tensorflow-addons"} <= optional


@pytest.mark.parametrize(
    ("versions", "extras"),
    [
        ("newest.txt", ["copies", "docs", "notebooks", "safetensors", "test"]),
        ("addons.txt", ["addons", "copies", "test"]),
    ],
)
def test_every_requirement_has_a_tested_version(package, versions, extras):
    lines = (ROOT / "requirements" / versions).read_text().splitlines()
    pinned = {normal(line) for line in lines if "==" in line and not line.startswith("#")}
    wanted = [*package.arguments["install_requires"]]
    for extra in extras:
        wanted += package.arguments["extras_require"][extra]
    assert {normal(requirement) for requirement in wanted} <= pinned


@pytest.mark.parametrize("url", ["", "https://example.org/daso_tf"])
def test_description_has_no_relative_picture_or_link(package, url):
    text = package.functions["description"](url)
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    assert all(re.match(r"https?://|#", target) for target in targets)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)
    assert bool(pictures) == bool(url)
    assert all(picture.startswith(f"{url}/raw/HEAD/") for picture in pictures)
    for picture in pictures:
        assert (ROOT / picture.removeprefix(f"{url}/raw/HEAD/")).exists()
