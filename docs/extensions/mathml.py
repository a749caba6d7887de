"""Equations as MathML, which browsers show by themselves: no script has to be fetched for them."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def mathml(equation: str, as_block: bool) -> str:
    """The equation as MathML.

    Raises:
        ExtensionError: docutils does not know all of its LaTeX.
    """
    try:
        return tex2mathml(equation, as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"{error} Write this equation in simpler LaTeX: {equation}") from None


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
