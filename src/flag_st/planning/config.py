"""The configuration: layered YAML that is validated by schema, cross-checked and resolved."""

import copy
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from flag_st.core.code import ROOT, locate
from flag_st.core.errors import Faults, FlagError
from flag_st.data.field import FIELD_UM
from flag_st.sources.folder import locate as locate_file

#: One file per layer; later layers may name entries of earlier ones.
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
    "hinge_experiments",
]
#: Layers whose entries name a class.
PLUGINS = ("cohorts", "encoders", "gene_models", "methods", "metrics")
#: Reads plain values only, as ``yaml.safe_load`` does, but ten times as fast where PyYAML has its C part.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def load(overlay: dict[str, Any] | None = None, files: Iterable[str | Path] = ()) -> dict[str, Any]:
    """The shipped layers, overlaid by ``files`` and then by ``overlay``, checked and resolved.

    Raises:
        FlagError: lists all faults of the configuration at once.
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
    """The shipped layers, neither validated nor resolved. The result is shared: do not change it."""
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
    """``base`` with ``over`` on top: mappings merge, other values are replaced. Changes neither."""
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
    """Unknown keys, and values of a wrong type or out of range."""
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
    """Names that an entry uses and no layer declares; plug-ins and scripts that do not exist."""
    faults = Faults()
    _plugin_faults(config, faults)
    _grid_faults(config, faults)
    _missing_faults(config, faults)
    _gene_faults(config, faults)
    _field_faults(config, faults)
    for name, entry in config["experiments"].items():
        if not (ROOT / "scripts" / f"{entry['script']}.py").exists():
            choices = [f"{p.parent.name}/{p.stem}" for p in sorted(ROOT.glob("scripts/*/*.py"))]
            faults.add(
                f"experiments.{name}.script: no scripts/{entry['script']}.py", choices=choices
            )
    return faults


def genes_of(panel: dict[str, Any]) -> int:
    """How many genes slides must share for a panel; with ``top``, fewer than that may be chosen."""
    return panel.get("size") or panel["top"]


def _check_name(config: dict[str, Any], faults: Faults, layer: str, name: Any, where: str) -> None:
    if name not in (None, "default") and name not in config[layer]:
        faults.add(f"{where}: no {name!r} in {layer}", choices=sorted(config[layer]))


def _plugin_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of each plug-in entry: its class or base, and the entries that its params name."""
    for layer in PLUGINS:
        entries = config[layer]
        for name, entry in entries.items():
            where = f"{layer}.{name}"
            if "base" in entry:
                _check_name(config, faults, layer, entry["base"], f"{where}.base")
                if "base" in entries.get(entry["base"], {}):
                    faults.add(f"{where}.base: {entry['base']} itself has a base; one level")
            elif not plugin_exists(entry["use"]):
                path = entry["use"].rpartition(".")[0].replace(".", "/")
                faults.add(
                    f"{where}.use: no class {entry['use']}",
                    remedy=f"put it into DIR/{path}.py, where DIR is src or a folder in PYTHONPATH",
                )
            for other in references(entry.get("params", {})):
                _check_name(config, faults, layer, other, f"{where}.params")
                if any(references(entries.get(other, {}).get("params", {}))):
                    faults.add(f"{where}.params: {other} itself names an entry; one level")


def _grid_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of the defaults, the experiments and the methods: the entries that they name."""
    defaults = config["defaults"]
    names = [("metrics", name, "defaults.metrics") for name in defaults["metrics"]]
    names += [("experiments", name, "make") for name in config["make"]]
    for experiment, grid in {None: defaults, **config["experiments"]}.items():
        where = f"experiments.{experiment}" if experiment else "defaults"
        for layer in ("cohorts", "methods", "panels"):
            names += [(layer, name, f"{where}.{layer}") for name in grid.get(layer, [])]
        names += [("splits", grid.get("split"), f"{where}.split")]
        names += [("panels", grid.get("panel"), f"{where}.panel")]
    for method, entry in {None: defaults, **config["methods"]}.items():
        where = f"methods.{method}" if method else "defaults"
        names += [("encoders", entry.get("encoder"), f"{where}.encoder")]
        for key in ("gene_model", "backbone"):
            names += [("gene_models", entry.get(key), f"{where}.{key}")]
    for layer, name, where in names:
        _check_name(config, faults, layer, name, where)
    _backbone_faults(config, faults)


def _backbone_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of each method that is built on a gene model: whether that has a network to build on."""
    known = config["gene_models"]
    bases = {name: known.get(entry.get("base"), {}) for name, entry in known.items()}
    able = [name for name in known if merge(bases[name], known[name]).get("backbone")]
    for method, entry in config["methods"].items():
        name = entry.get("backbone")
        if name in known and name not in able:
            fault = f"methods.{method}.backbone: {name} has no network to build on"
            faults.add(fault, choices=sorted(able))


def _gene_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of panels: the files that they name; of gene models: a corpus where nothing is fitted."""
    for name, panel in config["panels"].items():
        known = panel.get("vocabulary")
        if known and known not in config["gene_models"] and not locate_file(known).is_file():
            faults.add(
                f"panels.{name}.vocabulary: no gene model and no file {known}",
                remedy="name a gene model, write the symbols into that file, one a line, or set "
                "vocabulary: null",
            )
    models = config["gene_models"]
    for name, entry in models.items():
        if "corpus" in entry and not {**models.get(entry.get("base"), {}), **entry}.get("fits"):
            faults.add(f"gene_models.{name}: only models with fits: true have a corpus")


def _field_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of encoders that are made of others: whether a part states another field of view than the whole."""
    known = config["encoders"]
    whole = {name: merge(known.get(e.get("base"), {}), e) for name, e in known.items()}
    for name, entry in whole.items():
        field = entry.get("field_um", FIELD_UM)
        for part in sorted(set(references(entry.get("params", {}))) & set(whole)):
            if (own := whole[part].get("field_um", field)) != field:
                faults.add(
                    f"encoders.{name} reads patches of {field} µm, and its part {part} those of {own} µm",
                    remedy=f"write field_um: {own} in encoders.{name}, or name parts of {field} µm",
                )


def _missing_faults(config: dict[str, Any], faults: Faults) -> None:
    """Of the key ``missing``: the entries and the cohorts that it names."""
    layers = ("cohorts", "methods", "encoders", "gene_models")
    for name, reason in config.get("missing", {}).items():
        if not any(name in config[layer] for layer in layers):
            faults.add(f"missing: no {name!r} in {', '.join(layers)}")
        for cohort in reason if isinstance(reason, dict) else ():
            _check_name(config, faults, "cohorts", cohort, f"missing.{name}")


def plugin_exists(use: str) -> bool:
    """Whether the module of ``use`` defines the class, without importing what the module needs.

    Only the starts of lines are compared: parsing every plug-in would delay each start of Snakemake.
    """
    module, _, name = use.rpartition(".")
    if not module.startswith("flag_st."):
        return True  # somebody's own package: the registry reports it when the entry is built
    path = locate(module)
    if path is None or module.rpartition(".")[2] not in (path.stem, path.parent.name):
        return False
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.name == "__init__.py":  # a package hands on the classes of its modules
        lines = [f"class {n}:" for line in lines for n in line.partition(" import ")[2].split(", ")]
    statement = (f"class {name}(", f"class {name}:")
    return any(line.startswith(statement) for line in lines)


def references(params: Any) -> Iterable[str]:
    """Names of entries of the same layer in params: ``{entry: NAME}``, at any depth."""
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
    """Replace ``base`` and ``{entry: …}`` by what they name; fill in defaults of methods and experiments."""
    config = copy.deepcopy(config)
    config["verify"] = config["verify"] in (True, "true")  # text, from the command line
    for layer in PLUGINS:
        entries = config[layer]
        for name, entry in list(entries.items()):
            if "base" in entry:
                own = {k: v for k, v in entry.items() if k != "base"}
                entries[name] = merge(entries[entry["base"]], own)
        for entry in entries.values():
            if named := sorted(set(references(entry.get("params", {})))):
                entry["named"] = named
                entry["params"] = embed(entry["params"], entries)
    defaults = config["defaults"]
    for entry in config["methods"].values():
        for key, absent in (("encoder", "default"), ("gene_model", None)):
            value = entry.get(key, absent)
            entry[key] = defaults[key] if value == "default" else value
        if backbone := entry.get("backbone"):
            known = config["gene_models"][backbone]
            built = {"use": known["use"], "params": known.get("params", {})}
            entry["params"] = {**entry.get("params", {}), "backbone": built}
    for entry in config["experiments"].values():
        for key in ("cohorts", "split", "methods", "seeds"):
            entry.setdefault(key, defaults[key])
        entry.setdefault("panels", [entry.pop("panel", defaults["panel"])])
    return config
