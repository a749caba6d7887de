"""What the rules declare of themselves: outputs, benchmark, threads and resources.

Read from ``workflow/rules`` as text, so that a plan needs neither Snakemake nor its graph. The
formatter (``snakefmt``) fixes the layout that is read here; a dry run's table is held against it.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.planning.config import read_yaml

RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", re.M | re.S)
DIRECTIVE = re.compile(r"^    (\w+):(.*?)(?=^    \w|\Z)", re.M | re.S)
PATTERN = re.compile(r'f"(\{RESULTS\}/[^"]+)"')
NUMBER = r"(?:(?:grown\()?(\d+)\)?|cost\(\"(\w+)\", \"(\w+)\", \"(\w+)\", (\d+)\))"
#: Keys of `resources:`, and threads, which is a directive of its own.
RESOURCES = ("gpu", "mem_mb", "runtime")


@dataclass(frozen=True)
class Amount:
    """A number, or the key of the entry that a wildcard names.

    Attributes:
        number: the value, or what holds where the entry does not say.
        layer, wildcard, key: ``config[layer][wildcards[wildcard]][key]``; empty for a number.
    """

    number: int
    layer: str = ""
    wildcard: str = ""
    key: str = ""

    def of(self, config: dict[str, Any], wildcards: dict[str, str]) -> int:
        if not self.layer:
            return self.number
        return config[self.layer][wildcards[self.wildcard]].get(self.key, self.number)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        outputs, benchmark: paths with ``{RESULTS}`` and wildcards in braces.
        amounts: gpu, mem_mb, runtime (minutes) and threads of a job.
    """

    name: str
    outputs: tuple[str, ...]
    benchmark: str
    amounts: dict[str, Amount]


def paths(patterns: tuple[str, ...], results: str, wildcards: dict[str, str]) -> list[str]:
    """The files that patterns of a rule stand for."""
    return [pattern.format(RESULTS=results, **wildcards) for pattern in patterns]


@cache
def read_rules() -> dict[str, Rule]:
    """Every rule of the workflow by name.

    Raises:
        FlagError: a rule is written in a way that is not understood here.
    """
    rules = {}
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for name, body in RULE.findall(file.read_text(encoding="utf-8")):
            rules[name] = _rule(name, dict(DIRECTIVE.findall(body)))
    return rules


def _rule(name: str, parts: dict[str, str]) -> Rule:
    amounts = {key: Amount(number) for key, number in default_resources().items()}
    amounts["threads"] = _amount(name, "threads", parts.get("threads", "1"))
    for key in RESOURCES:
        if said := re.search(rf"^ +{key}=(.+),$", parts.get("resources", ""), re.M):
            amounts[key] = _amount(name, key, said[1])
    benchmark = _patterns(parts.get("benchmark", ""))
    if not benchmark:
        raise FlagError(f"rule {name} names no benchmark below {{RESULTS}}")
    return Rule(name, _patterns(parts.get("output", "")), benchmark[0], amounts)


def _patterns(text: str) -> tuple[str, ...]:
    """``{{x}}`` of an f-string stands for the wildcard ``{x}``."""
    return tuple(p.replace("{{", "{").replace("}}", "}") for p in PATTERN.findall(text))


def _amount(rule: str, key: str, text: str) -> Amount:
    found = re.fullmatch(NUMBER, text.strip())
    if found is None:
        raise FlagError(
            f"rule {rule}: {key} is {text.strip()!r}",
            remedy='write a number, or cost("LAYER", "WILDCARD", "KEY", DEFAULT)',
        )
    number, layer, wildcard, name, default = found.groups()
    return Amount(int(number)) if number else Amount(int(default), layer, wildcard, name)


@cache
def default_resources() -> dict[str, int]:
    """gpu, mem_mb and runtime of rules that do not say: those of the default profile."""
    profile = read_yaml(ROOT / "profiles" / "default" / "profile.yaml")
    return {key: profile["default-resources"][key] for key in RESOURCES}
