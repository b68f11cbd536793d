r"""Renders equations as MathML, which browsers display without JavaScript and without a network.

Sphinx's own renderers need a content delivery network (MathJax) or a LaTeX installation (imgmath).
The converter is the one of docutils, on which Sphinx is built.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

# docutils takes the index of `{\hat y}_i` for something below y. An empty group prevents it.
_ACCENT = re.compile(r"\{(\\(?:bar|hat|tilde) \w)\}")
_THIN_SPACE = '<mspace width="0.1667em"></mspace>'

logger = logging.getLogger(__name__)


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, as_block: bool) -> str:
    """Converts an equation. A failure is a warning, which stops a build with `-W`."""
    latex = node.astext().strip()
    try:
        mathml = tex2mathml(_ACCENT.sub(r"{\1{}}", latex), as_block=as_block)
    except MathError as error:
        logger.warning("cannot convert the equation %r: %s", latex, error, location=node)
        return html.escape(latex)
    mathml = mathml.replace("<mi>log</mi>", f"{_THIN_SPACE}<mi>log</mi>{_THIN_SPACE}")
    # Sums and fractions within `aligned` are as large as outside.
    return mathml.replace('class="ams-align">', 'class="ams-align" displaystyle="true">')


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer. `html_math_renderer = "mathml"` selects it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
