"""Configuration: layered YAML, validated by schema, cross-checked, resolved."""

import copy
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from flag_st.core.code import ROOT, locate
from flag_st.core.errors import Faults, FlagError

#: One file a layer; later layers may name entries of earlier ones.
LAYERS = [
    "config",
    "cohorts",
    "splits",
    "panels",
    "encoders",
    "gene_models",
    "methods",
    "metrics",
    "experiments",
]
#: Layers whose entries name a class.
PLUGINS = ("cohorts", "encoders", "gene_models", "methods", "metrics")
#: Plain values alone, as ``yaml.safe_load``; ten times as fast where PyYAML has its C part.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def load(overlay: dict[str, Any] | None = None, files: Iterable[str | Path] = ()) -> dict[str, Any]:
    """Shipped layers, overlaid by ``files`` and then by ``overlay``; valid and cross-checked.

    Raises:
        FlagError: all faults of the configuration at once.
    """
    config = shipped()
    for file in files:
        config = merge(config, read_yaml(file))
    config = merge(config, overlay or {})
    faults = schema_faults(config)
    if not faults.messages:
        faults.extend(cross_faults(config))
    faults.raise_if_any("configuration")
    return resolve(config)


@cache
def shipped() -> dict[str, Any]:
    """The shipped layers, neither resolved nor validated; not to be changed."""
    config: dict[str, Any] = {}
    for layer in LAYERS:
        config = merge(config, read_yaml(ROOT / "config" / f"{layer}.yaml"))
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        FlagError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        loader = LOADER(Path(path).read_text(encoding="utf-8"))
        value = loader.get_single_data()
        loader.dispose()
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read configuration file {path} ({error})") from None
    except yaml.YAMLError as error:
        raise FlagError(f"{path} is not valid YAML ({error})") from None
    if not isinstance(value, dict | None):
        raise FlagError(f"{path} must hold a mapping of keys, found {type(value).__name__}")
    return value or {}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings merge, everything else is replaced; neither argument is changed."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


@cache
def schema() -> dict[str, Any]:
    return read_yaml(SCHEMA)


def schema_faults(config: dict[str, Any]) -> Faults:
    faults = Faults()
    validator = jsonschema.Draft202012Validator(schema())
    for error in sorted(validator.iter_errors(config), key=lambda e: list(map(str, e.path))):
        where = ".".join(map(str, error.path)) or "top level"
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = sorted(set(error.instance) - set(known))
            faults.add(f"{where}: unknown key {', '.join(unknown)}", choices=sorted(known))
        else:
            faults.add(f"{where}: {error.message}")
    return faults


def cross_faults(config: dict[str, Any]) -> Faults:
    """Names that one entry uses and no layer declares; plug-ins that do not exist."""
    faults = Faults()

    def known(layer: str, name: Any, where: str) -> None:
        if name not in (None, "default") and name not in config[layer]:
            faults.add(f"{where}: no {name!r} in {layer}", choices=sorted(config[layer]))

    for layer in PLUGINS:
        for name, entry in config[layer].items():
            if "base" in entry:
                known(layer, entry["base"], f"{layer}.{name}.base")
                if "base" in config[layer].get(entry["base"], {}):
                    faults.add(f"{layer}.{name}.base: {entry['base']} itself has a base; one level")
            elif not plugin_exists(entry["use"]):
                module = entry["use"].rpartition(".")[0]
                faults.add(
                    f"{layer}.{name}.use: no class {entry['use']}",
                    remedy=f"its place is DIR/{module.replace('.', '/')}.py, DIR being src or in PYTHONPATH",
                )
    grids = {"defaults": config["defaults"]}
    grids |= {f"experiments.{n}": e for n, e in config["experiments"].items()}
    for where, grid in grids.items():
        for cohort in grid.get("cohorts", []):
            known("cohorts", cohort, f"{where}.cohorts")
        for method in grid.get("methods", []):
            known("methods", method, f"{where}.methods")
        known("splits", grid.get("split"), f"{where}.split")
        known("panels", grid.get("panel"), f"{where}.panel")
        for panel in grid.get("panels", []):
            known("panels", panel, f"{where}.panels")
    for where, entry in [("defaults", config["defaults"])] + [
        (f"methods.{n}", e) for n, e in config["methods"].items()
    ]:
        known("encoders", entry.get("encoder"), f"{where}.encoder")
        known("gene_models", entry.get("gene_model"), f"{where}.gene_model")
    for layer in PLUGINS:
        for name, entry in config[layer].items():
            for other in references(entry.get("params", {})):
                known(layer, other, f"{layer}.{name}.params")
                if any(references(config[layer].get(other, {}).get("params", {}))):
                    faults.add(f"{layer}.{name}.params: {other} itself names an entry; one level")
    for name in config["defaults"]["metrics"]:
        known("metrics", name, "defaults.metrics")
    for name in config["make"]:
        known("experiments", name, "make")
    for name, reason in config.get("missing", {}).items():
        layers = ("cohorts", "methods", "encoders", "gene_models")
        if not any(name in config[layer] for layer in layers):
            faults.add(f"missing: no {name!r} in {', '.join(layers)}")
        for cohort in reason if isinstance(reason, dict) else ():
            known("cohorts", cohort, f"missing.{name}")
    for name, entry in config["experiments"].items():
        script = ROOT / "scripts" / f"{entry['script']}.py"
        if not script.exists():
            choices = [f"{p.parent.name}/{p.stem}" for p in sorted(ROOT.glob("scripts/*/*.py"))]
            faults.add(
                f"experiments.{name}.script: no scripts/{entry['script']}.py", choices=choices
            )
    return faults


def plugin_exists(use: str) -> bool:
    """Whether ``use`` names a class, found without importing what it needs."""
    module, _, name = use.rpartition(".")
    path = locate(module)
    if not module.startswith("flag_st."):
        return True  # somebody's own package; the registry will tell when it is built
    if path is None or path.stem != module.rpartition(".")[2]:
        return False
    return bool(re.search(rf"^class {name}\b", path.read_text(encoding="utf-8"), re.M))


def references(params: Any) -> Iterable[str]:
    """Entries of the same layer that params name: ``{entry: NAME}``, at any depth."""
    if isinstance(params, dict):
        if isinstance(params.get("entry"), str):
            yield params["entry"]
        for value in params.values():
            yield from references(value)


def embed(params: Any, entries: dict[str, Any]) -> Any:
    """``params`` with the class and arguments of an entry in place of ``{entry: NAME}``."""
    if not isinstance(params, dict):
        return params
    params = {key: embed(value, entries) for key, value in params.items()}
    if not isinstance(name := params.pop("entry", None), str):
        return params
    known = entries[name]
    return merge({"use": known["use"], "params": known.get("params", {})}, params)


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """Fill ``base`` and ``{entry: …}`` (one level), and the defaults of methods and experiments."""
    config = copy.deepcopy(config)
    for layer in PLUGINS:
        entries = config[layer]
        for name, entry in list(entries.items()):
            if "base" in entry:
                own = {k: v for k, v in entry.items() if k != "base"}
                entries[name] = merge(entries[entry["base"]], own)
        for entry in entries.values():
            if any(references(entry.get("params", {}))):
                entry["params"] = embed(entry["params"], entries)
    defaults = config["defaults"]
    for entry in config["methods"].values():
        for key, absent in (("encoder", "default"), ("gene_model", None)):
            value = entry.get(key, absent)
            entry[key] = defaults[key] if value == "default" else value
    for entry in config["experiments"].values():
        for key in ("cohorts", "split", "methods", "seeds"):
            entry.setdefault(key, defaults[key])
        entry.setdefault("panels", [entry.pop("panel", defaults["panel"])])
    return config
