"""The command ``flag-st``: checks, descriptions and scores for people and scripts."""

import argparse
import json
import sys
from typing import Any

from flag_st.core.errors import FlagError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; 0 if all is well, 1 with a message on standard error if not."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except FlagError as error:
        print(f"flag-st: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="flag-st", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="validate configuration and inputs; print all faults")
    _config_arguments(check)
    check.add_argument("--no-data", action="store_true", help="check the configuration alone")
    check.set_defaults(run=run_check)

    downloads = commands.add_parser(
        "downloads", help="what a run would download, and whether it may; transfers nothing"
    )
    _config_arguments(downloads)
    downloads.set_defaults(run=run_downloads)

    plan = commands.add_parser("plan", help="jobs, GPU-hours, CPU-hours and disk, per stage")
    _config_arguments(plan)
    plan.add_argument(
        "--spots", type=_positive, help="spots of a slide that is not prepared yet (default 3000)"
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    plan.set_defaults(run=run_plan)

    trace = commands.add_parser("trace", help="from a result back to slides and weights")
    trace.add_argument("file", help="any output, such as results/paper/tables/table_1.csv")
    trace.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of several runs those with all these names in their path: flag HER2ST seed0",
    )
    trace.add_argument("--json", action="store_true", help="print JSON instead of lines")
    trace.set_defaults(run=run_trace)

    describe = commands.add_parser("describe", help="parameters and size of a method, as JSON")
    describe.add_argument("method", help="an entry of config/methods.yaml")
    describe.add_argument("--genes", type=_positive, default=200, help="G, genes of the panel")
    describe.add_argument("--features", type=_positive, default=1024, help="D, encoder width")
    describe.add_argument(
        "--targets", type=int, default=1152, help="K, gene-model width, where a method aligns"
    )
    _config_arguments(describe)
    describe.set_defaults(run=run_describe)

    score = commands.add_parser(
        "score", help="every metric for two h5ad of the same spots and genes"
    )
    score.add_argument("truth", help="h5ad with obsm['spatial']")
    score.add_argument("prediction", help="h5ad; draws in layers['draw_0'] … if there are any")
    score.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="entries of config/metrics.yaml"
    )
    score.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _config_arguments(score)
    score.set_defaults(run=run_score)
    return top


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--configfile", nargs="+", default=[], metavar="FILE", help="overlays, as for snakemake"
    )
    command.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="top-level keys, such as root=DIR or make=[table_1]",
    )


def load_config(arguments: argparse.Namespace) -> dict[str, Any]:
    import yaml

    from flag_st.planning import config

    given: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in arguments.config):
        try:
            given[key] = yaml.safe_load(value)  # lists and numbers, as Snakemake reads them
        except yaml.YAMLError:
            given[key] = value
    return config.load(given, arguments.configfile)


def run_check(arguments: argparse.Namespace) -> int:
    from flag_st.commands.check import check

    return check(load_config(arguments), data=not arguments.no_data)


def run_downloads(arguments: argparse.Namespace) -> int:
    from flag_st.commands.downloads import downloads

    return downloads(load_config(arguments))


def run_plan(arguments: argparse.Namespace) -> int:
    from flag_st.commands import plan

    spots = arguments.spots or plan.SPOTS
    stages = plan.estimate(load_config(arguments), spots)
    found = plan.as_json(stages)
    print(json.dumps(found, indent=2) if arguments.json else plan.as_text(stages, spots))
    return 0


def run_trace(arguments: argparse.Namespace) -> int:
    """1 if a file of the chain is missing or differs from its record."""
    from flag_st.commands import trace

    links = trace.trace(arguments.file, arguments.only)
    print(trace.as_json(links) if arguments.json else trace.as_text(links))
    return int(any(link.state in trace.WRONG for link in links))


def run_describe(arguments: argparse.Namespace) -> int:
    from flag_st.commands.describe import describe

    config = load_config(arguments)
    sizes = arguments.genes, arguments.features, arguments.targets
    print(json.dumps(describe(config, arguments.method, *sizes), indent=2, default=str))
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    from flag_st.core import registry
    from flag_st.scoring.files import score_files

    entries = load_config(arguments)["metrics"]
    chosen = arguments.metrics or list(entries)
    if unknown := sorted(set(chosen) - set(entries)):
        raise FlagError(f"no metric {', '.join(unknown)}", choices=entries)
    metrics = {n: registry.build(entries[n]["use"], entries[n].get("params", {})) for n in chosen}
    found = score_files(arguments.truth, arguments.prediction, metrics)
    if arguments.json:
        # NaN is no JSON: an undefined value is null.
        print(json.dumps(_nulls(found), indent=2))
        return 0
    names = list(dict.fromkeys(e for values in found.values() for e in values))
    print(f"{'metric':28}" + "".join(f"{name:>12}" for name in names))
    for metric, values in found.items():
        cells = [f"{values[n]:12.4f}" if n in values else " " * 11 + "–" for n in names]
        print(f"{metric:28}" + "".join(cells))
    return 0


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nulls(v) for k, v in value.items()}
    return None if value != value else value


if __name__ == "__main__":
    raise SystemExit(main())
