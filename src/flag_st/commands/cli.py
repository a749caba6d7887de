"""Check a configuration, plan, describe and summarise its runs, score predictions, and predict new slides."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from flag_st.core.code import need_checkout
from flag_st.core.errors import FlagError
from flag_st.core.streams import keep_messages


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns 0 if it succeeds, and 1 with a message on standard error if not."""
    keep_messages()
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except FlagError as error:
        print(f"flag-st: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; ``run`` of its result is the function that runs the one given."""
    top = argparse.ArgumentParser(prog="flag-st", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _before_a_run(commands)
    _after_a_run(commands)
    _about_methods(commands)
    _about_new_slides(commands)
    return top


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A subcommand whose line in the list and whose own help say the same."""
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _before_a_run(commands: Any) -> None:
    check = _add(commands, "check", "check the configuration and its slides, and print all faults")
    check.add_argument(
        "--no-data", action="store_true", help="check only the configuration, not the slides"
    )
    _config_arguments(check)
    check.set_defaults(run=run_check)

    downloads = _add(
        commands,
        "downloads",
        "list what a run would download and whether your login may; nothing is transferred",
    )
    _config_arguments(downloads)
    downloads.set_defaults(run=run_downloads)

    plan = _add(
        commands, "plan", "estimate jobs, GPU-hours, CPU-hours and disk space of each stage"
    )
    plan.add_argument(
        "--spots",
        type=_positive,
        help="spots to assume for a slide that has not been prepared yet (default: 3000)",
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _config_arguments(plan)
    plan.set_defaults(run=run_plan)


def _after_a_run(commands: Any) -> None:
    summary = _add(
        commands,
        "summary",
        "print the tables of a finished run and where its figures and report are",
    )
    summary.add_argument(
        "results", nargs="?", default="results", help="folder of the results (default: results)"
    )
    summary.set_defaults(run=run_summary)

    trace = _add(commands, "trace", "trace a result back to its slides and weights")
    trace.add_argument("file", help="any output, such as results/paper/tables/table_1.csv")
    trace.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of several runs, trace only those whose path has all these names, such as: "
        "flag HER2ST seed0",
    )
    trace.add_argument("--json", action="store_true", help="print JSON instead of lines")
    trace.set_defaults(run=run_trace)

    _about_crates(commands)

    attribute = _add(
        commands, "attribute", "say what explains the gap between a printed number and ours"
    )
    attribute.add_argument("claim", help="an entry of config/court.yaml")
    attribute.add_argument(
        "results", nargs="?", help="folder of the results (default: that of the configuration)"
    )
    _config_arguments(attribute)
    attribute.set_defaults(run=run_attribute)

    score = _add(
        commands, "score", "compute every metric for two h5ad files of the same spots and genes"
    )
    score.add_argument("truth", help="h5ad file with obsm['spatial']")
    score.add_argument(
        "prediction", help="h5ad file; its draws, if it has any, are layers['draw_0'] and so on"
    )
    score.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="compute only these of config/metrics.yaml"
    )
    score.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _config_arguments(score)
    score.set_defaults(run=run_score)


def _about_crates(commands: Any) -> None:
    crate = _add(commands, "crate", "write a finished run as one archive, an RO-Crate")
    crate.add_argument(
        "results", nargs="?", default="results", help="folder of the results (default: results)"
    )
    crate.add_argument("-o", "--out", default="crate.zip", help="the file (default: crate.zip)")
    crate.add_argument(
        "--with-predictions", action="store_true", help="put predictions into it, too"
    )
    crate.add_argument("--force", action="store_true", help="replace a file that is there")
    crate.set_defaults(run=run_crate)

    compare = _add(
        commands,
        "compare",
        "say which numbers of two runs differ and by what the runs differ before them",
    )
    for name in "ab":
        compare.add_argument(
            name, metavar=name.upper(), help="crate of a run, or folder of its results"
        )
    compare.add_argument(
        "--tolerance",
        type=_not_below_0,
        default=0.0,
        help="largest distance between two values that is no difference (default: 0, exactly equal)",
    )
    compare.add_argument("--json", action="store_true", help="print JSON instead of text")
    compare.set_defaults(run=run_compare)


def _about_methods(commands: Any) -> None:
    describe = _add(
        commands, "describe", "print the settings and the number of parameters of a method as JSON"
    )
    describe.add_argument("method", help="an entry of config/methods.yaml")
    describe.add_argument("--genes", type=_positive, default=200, help="G, genes of the panel")
    describe.add_argument(
        "--features", type=_positive, default=1024, help="D, width of the encoder's features"
    )
    describe.add_argument(
        "--targets",
        type=int,
        default=1152,
        help="K, width of the gene model's embeddings, for methods that align to one",
    )
    _config_arguments(describe)
    describe.set_defaults(run=run_describe)

    benchmark = _add(
        commands, "benchmark", "measure speed and memory against the released code's computation"
    )
    benchmark.add_argument(
        "--out", default="results/benchmarks", help="folder of the table and the picture"
    )
    one = benchmark.add_argument_group("one measurement, in this process and printed as JSON")
    one.add_argument("--case", help="what to measure")
    one.add_argument("--entry", default="flag", help="an entry of config/methods.yaml")
    one.add_argument("--spots", type=_positive, default=280, help="spots of the slide")
    one.add_argument("--more", type=json.loads, default={}, help="arguments of the method as JSON")
    benchmark.set_defaults(run=run_benchmark)


def _about_new_slides(commands: Any) -> None:
    export = _add(commands, "export", "write a trained method as one file that predicts new slides")
    export.add_argument(
        "folder", metavar="RUN", help="such as results/HER2ST/random/hmhvg200/flag/seed0"
    )
    export.add_argument("-o", "--out", default="model.flag", help="the file (default: model.flag)")
    export.add_argument(
        "--draws",
        type=_positive,
        help="draws per slide (default: as many as the run made of its test slides)",
    )
    export.add_argument(
        "--licence", default="", help="of the training slides, where config/sources.tsv lists none"
    )
    export.set_defaults(run=run_export)

    show = _add(commands, "show", "print what an exported model holds and needs")
    show.add_argument("model", help="file of `flag-st export`")
    show.add_argument("--json", action="store_true", help="print JSON instead of text")
    show.set_defaults(run=run_show)

    predict = _add(commands, "predict", "predict the expression of slides without counts")
    predict.add_argument("slides", nargs="+", metavar="SLIDE", help="slide images")
    predict.add_argument("--model", required=True, help="file of `flag-st export`")
    predict.add_argument(
        "-o", "--out", default="predictions", help="a folder per slide is made here"
    )
    _prediction_options(predict)
    predict.set_defaults(run=run_predict)


def _prediction_options(predict: argparse.ArgumentParser) -> None:
    predict.add_argument(
        "--pixel-um", type=_above_0, help="µm per pixel, where a file does not state it"
    )
    predict.add_argument(
        "--pitch-um", type=_above_0, help="distance of the spots (default: as in training)"
    )
    predict.add_argument(
        "--genes",
        nargs="+",
        default=[],
        metavar="GENE",
        help="genes that maps and overlays show (default: the 8 best on validation slides)",
    )
    predict.add_argument(
        "--draws", type=_positive, help="draws of a generative method (default: as in training)"
    )
    predict.add_argument(
        "--at",
        metavar="SPOTS",
        help="predict these spots (.csv or .h5ad) instead of a grid over the tissue",
    )
    predict.add_argument(
        "--mask",
        default="",
        metavar="MASK",
        help="where tissue is: lazyslide (extra: slides), a .geojson of QuPath, or a .png that is black "
        "elsewhere (default: found by colour)",
    )
    predict.add_argument(
        "--force", action="store_true", help="predict slides that are refused, too"
    )
    predict.add_argument(
        "--gene-sets", type=Path, metavar="GMT", help="score the gene sets of this file, too"
    )
    predict.add_argument(
        "--spatialdata", action="store_true", help="write slide.zarr, too (extra: slides)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _not_below_0(text: str) -> float:
    return 0.0 if text.strip("0.") == "" and text not in ("", ".") else _above_0(text)


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--configfile",
        nargs="+",
        default=[],
        metavar="FILE",
        help="configuration files on top of the shipped ones, as for snakemake",
    )
    command.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of top-level keys, such as root=DIR or make=[table_1]",
    )


def load_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration that ``--configfile`` and ``--config`` ask for, checked."""
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
    need_checkout("flag-st check")
    from flag_st.commands.check import check

    return check(load_config(arguments), data=not arguments.no_data)


def run_downloads(arguments: argparse.Namespace) -> int:
    need_checkout("flag-st downloads")
    from flag_st.commands.downloads import list_downloads

    return list_downloads(load_config(arguments))


def run_plan(arguments: argparse.Namespace) -> None:
    need_checkout("flag-st plan")
    from flag_st.commands import plan

    spots = arguments.spots or plan.SPOTS
    stages = plan.estimate(load_config(arguments), spots)
    found = plan.as_json(stages)
    print(json.dumps(found, indent=2) if arguments.json else plan.as_text(stages, spots))


def run_summary(arguments: argparse.Namespace) -> None:
    from flag_st.commands.summary import summary

    print(summary(arguments.results))


def run_trace(arguments: argparse.Namespace) -> int:
    """Returns 1 if a file of the chain is missing or differs from its record."""
    from flag_st.commands import trace

    links = trace.trace(arguments.file, arguments.only)
    print(trace.as_json(links) if arguments.json else trace.as_text(links))
    return int(any(link.state in trace.WRONG for link in links))


def run_crate(arguments: argparse.Namespace) -> None:
    need_checkout("flag-st crate")
    from flag_st.crate.write import write_crate

    options = arguments.with_predictions, arguments.force
    written = write_crate(arguments.results, arguments.out, *options)
    for name, why in written.left_out.items():
        print(f"{name} is in the crate by its digest only: {why}", file=sys.stderr)
    print(f"{arguments.out}: {written.files} files, and the digests of {written.others} others")


def run_compare(arguments: argparse.Namespace) -> int:
    """Returns 0 if the numbers are the same, 1 if they differ, and 2 if a run cannot be compared."""
    from flag_st.commands import compare

    try:
        found = compare.compare(arguments.a, arguments.b, arguments.tolerance)
    except FlagError as error:
        print(f"flag-st: {error}", file=sys.stderr)
        return 2
    print(compare.as_json(found) if arguments.json else compare.as_text(found))
    return int(not found.same)


def run_attribute(arguments: argparse.Namespace) -> None:
    from flag_st.commands.attribute import attribute

    config = load_config(arguments)
    found = attribute(config, arguments.claim, arguments.results or config["results"])
    print("\n\n".join(one.as_text() for one in found))


def run_score(arguments: argparse.Namespace) -> None:
    from flag_st.commands.score import as_json, as_text, score

    config = load_config(arguments)
    found = score(config, arguments.truth, arguments.prediction, arguments.metrics)
    print(json.dumps(as_json(found), indent=2) if arguments.json else as_text(found))


def run_describe(arguments: argparse.Namespace) -> None:
    from flag_st.commands.describe import describe

    config = load_config(arguments)
    sizes = arguments.genes, arguments.features, arguments.targets
    print(json.dumps(describe(config, arguments.method, *sizes), indent=2, default=str))


def run_export(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from flag_st.core.job import device
    from flag_st.exported.export import export

    given = (arguments.draws, device(gpu=1), tqdm, arguments.licence)
    export(arguments.folder, arguments.out, *given)
    print(f"{arguments.out}: written. `flag-st show {arguments.out}` says what it holds and needs.")


def run_show(arguments: argparse.Namespace) -> None:
    from flag_st.commands import show
    from flag_st.exported.model import open_model

    model = open_model(arguments.model)
    found = show.as_json(model)
    print(json.dumps(found, indent=2) if arguments.json else show.as_text(model))


def run_predict(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from flag_st.commands.predict import predict, requests_of
    from flag_st.core.job import device

    names = ("mask", "pixel_um", "pitch_um", "draws", "force", "spatialdata", "gene_sets")
    options = {name: getattr(arguments, name) for name in names}
    requests = requests_of(arguments.slides, arguments.at, genes=tuple(arguments.genes), **options)
    cores = len(os.sched_getaffinity(0))
    predict(requests, arguments.model, arguments.out, device(gpu=1), cores, tqdm, tqdm.write)


def run_benchmark(arguments: argparse.Namespace) -> None:
    need_checkout("flag-st benchmark")
    from flag_st.commands import benchmark

    if arguments.case is None:
        benchmark.compare(arguments.out)
    else:
        found = benchmark.run_case(arguments.case, arguments.entry, arguments.spots, arguments.more)
        print(json.dumps(found))


if __name__ == "__main__":
    raise SystemExit(main())
