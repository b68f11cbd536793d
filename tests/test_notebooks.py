"""Notebooks: the committed files, and how the library looks in a notebook.

`./run.sh notebooks` executes the files; here they are only read.
"""

import json
import re
from pathlib import Path

import pytest

import daso_tf

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

CELLS = [
    "import daso_tf",
    """
import keras

data = daso_tf.data.load("digits", labeled_head=5, unlabeled_head=9, resolution=8)
encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
statistics = {"mean": data.mean, "std": data.std}
learner = daso_tf.DASO(encoder, data.num_classes, queue_size=8, **statistics)
data
""",
    """
learner.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
batches = daso_tf.data.training_batches(data, batch_size=4, unlabeled_ratio=1, seed=0)
learner.fit(batches, steps_per_epoch=20, epochs=2, shuffle=False);
""",
    """
import os
import tempfile

with tempfile.TemporaryDirectory() as folder:
    learner.export(os.path.join(folder, "export"))
""",
    """
%matplotlib inline
from daso_tf.commands import describe

describe.figure(data)
""",
]


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "compare_methods",
        "own_pictures",
        "photographs_in_minutes",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_results(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    # As Jupyter writes it: saving an unchanged notebook changes nothing.
    assert text == json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z-]+", name) for name in names), "ids say what a cell does"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.fixture(scope="module")
def outputs():
    """What a kernel shows for each of `CELLS`, after carriage returns and backspaces."""
    for package in ("ipykernel", "nbclient", "nbformat"):
        pytest.importorskip(package, reason='needs pip install "daso_tf[notebooks]"')
    import nbclient
    import nbformat

    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=600, coalesce_streams=True).execute()
    return [cell["outputs"] for cell in notebook["cells"]]


def test_importing_and_exporting_show_nothing(outputs):
    assert outputs[0] == []
    assert outputs[3] == []


def test_data_are_summarized(outputs):
    (output,) = outputs[1]
    assert output["data"]["text/plain"] == repr(
        daso_tf.data.load("digits", labeled_head=5, unlabeled_head=9, resolution=8)
    )


def test_the_progress_bar_stays_on_its_line(outputs):
    (output,) = outputs[2]
    assert output["name"] == "stdout"
    lines = output["text"].splitlines()
    assert len(lines) == 4  # "Epoch 1/2" and the last state of the bar
    assert all("20/20" in line and "alignment_loss" in line for line in lines[1::2])


def test_a_figure_is_shown(outputs):
    (output,) = outputs[4]
    assert "image/png" in output["data"]


@pytest.mark.parametrize("use_jedi", [True, False])
@pytest.mark.parametrize(
    ("code", "argument"),
    [
        ("daso_tf.DASO(", "queue_size="),
        ("daso_tf.DASO(encoder, 10, thr", "threshold="),
        ("daso_tf.MeanTeacher(ra", "ramp_steps="),
    ],
)
def test_arguments_are_completed(code, argument, use_jedi):
    completer = pytest.importorskip(
        "IPython.core.completer", reason='needs pip install "daso_tf[notebooks]"'
    )
    ipython = completer.IPCompleter(namespace={"daso_tf": daso_tf}, use_jedi=use_jedi)
    with completer.provisionalcompleter():
        offered = [completion.text for completion in ipython.completions(code, len(code))]
    assert argument in offered
