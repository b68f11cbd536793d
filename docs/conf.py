"""How Sphinx builds the documentation: `./run.sh docs`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the reference imports TensorFlow and computes nothing
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from sphinx.util import inspect

import daso_tf

project = "daso_tf"
author = "the daso_tf authors"
copyright = author
version = release = daso_tf.__version__

extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# Pages are written in MyST Markdown.
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# The reference is made of the docstrings.
default_role = "literal"  # docstrings write `name` for code
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference", ("Call arguments", "params_style")]
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"daso_tf {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def constructor_signature(app, what, name, obj, options, signature, return_annotation):
    """Shows a class with the arguments of its constructor, which Keras's `__new__` hides."""
    if what != "class" or not {"__init__", "__signature__"} & vars(obj).keys():
        return None
    if "__signature__" in vars(obj):
        constructor = obj.__signature__
    else:
        constructor = inspect.signature(obj.__init__, bound_method=True)
    text = inspect.stringify_signature(
        constructor, show_return_annotation=False, unqualified_typehints=True
    )
    return text.replace("<factory>", "..."), None


def skip_member(app, what, name, obj, skip, options):
    """Leaves out what all Keras layers have, and the fields of a NamedTuple."""
    of_every_layer = what == "class" and name in ("build", "from_config", "get_config")
    return True if of_every_layer or type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Connects what this file adds."""
    app.connect("autodoc-process-signature", constructor_signature)
    app.connect("autodoc-skip-member", skip_member)
