"""What the script of a table or figure reads: it says so itself, in its line ``READS = (…)``."""

import ast
from functools import cache
from typing import TypeGuard

from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError

#: What a script may read: the word in ``READS``, the name in ``job.input`` and what is found there.
READABLE = {
    "scores": "the scores of all runs, in one table",
    "runs": "what every run used, where it ran and what it cost, in one table",
    "history": "the training history of every run",
    "predictions": "the predictions of every run on every test slide",
    "records": "the record of every job that made predictions: its time, memory and device",
    "spots": "the truth and the picture of every test slide",
    "slides": "the truth and the picture of every slide of every cohort",
    "pathways": "config/pathways.yaml",
    "claims": "config/claims.yaml",
    "court": "config/court.yaml",
    "tried_scores": "the scores of every made experiment that config/court.yaml names",
    "tried_runs": "the runs of these experiments, in the same order",
}


@cache
def reads_of(script: str) -> tuple[str, ...]:
    """What ``scripts/{script}.py`` reads besides the printed numbers.

    Only that one line is read. The script is not imported, because the environment that plans the
    workflow does not have all the packages that figures need.

    Raises:
        FlagError: the script has no such line, or it holds anything but words of ``READABLE``.
    """
    path = f"scripts/{script}.py"
    remedy = f'add a line such as READS = ("scores", "runs") to the top level of {path}'
    try:
        statements = ast.parse((ROOT / path).read_text(encoding="utf-8"), path).body
        words = next((ast.literal_eval(node.value) for node in statements if _states(node)), None)
    except (OSError, SyntaxError, ValueError) as error:
        raise FlagError(f"{path} cannot be read ({error})", remedy=remedy) from None
    if words is None:
        raise FlagError(f"{path} does not state what it reads", choices=READABLE, remedy=remedy)
    if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
        raise FlagError(f"{path}: READS must be a tuple of words", choices=READABLE, remedy=remedy)
    if unknown := [word for word in words if word not in READABLE]:
        raise FlagError(f"{path}: READS names unknown {', '.join(unknown)}", choices=READABLE)
    return words


def _states(node: ast.stmt) -> TypeGuard[ast.Assign]:
    """Whether a statement is ``READS = …``."""
    return isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["READS"]
