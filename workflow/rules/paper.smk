# Tables and figures: one tidy table of scores an experiment, one small script an item, one page.


rule collect_scores:
    input:
        scores=lambda wc: scores_of(wc.experiment),
    output:
        **outputs("collect_scores"),
    log:
        log_of("collect_scores"),
    benchmark:
        benchmark_of("collect_scores")
    conda:
        environment("collect_scores")
    threads: threads_of("collect_scores")
    resources:
        **resources_of("collect_scores"),
    params:
        code=code("collect_scores"),
    script:
        "../../scripts/collect_scores.py"


# Apart from the scores, so that what validation alone decides waits for no test slide.
rule collect_runs:
    input:
        runs=lambda wc: of_runs(rules.train.output.run, wc.experiment),
    output:
        **outputs("collect_runs"),
    log:
        log_of("collect_runs"),
    benchmark:
        benchmark_of("collect_runs")
    conda:
        environment("collect_runs")
    threads: threads_of("collect_runs")
    resources:
        **resources_of("collect_runs"),
    params:
        runs=lambda wc: run_keys(wc.experiment),
        code=code("collect_runs"),
    script:
        "../../scripts/collect_runs.py"


rule table:
    input:
        unpack(files_of),
        reported=given(REPORTED),
    output:
        **outputs(
            "table",
            html=lambda path: report(
                path,
                caption="../report/item.rst",
                category="Tables",
                labels={"table": "{experiment}"},
            ),
        ),
    log:
        log_of("table"),
    benchmark:
        benchmark_of("table")
    conda:
        environment("table")
    threads: threads_of("table")
    resources:
        **resources_of("table"),
    params:
        script=lambda wc: entry("experiments", wc.experiment)["script"],
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        contents=lambda wc: contents_of("table", wc, sheets_of(wc)),
        code=lambda wc: code(entry("experiments", wc.experiment)["script"]),
    script:
        "../../scripts/{params.script}.py"


rule figure:
    input:
        unpack(files_of),
        reported=given(REPORTED),
    output:
        **outputs(
            "figure",
            png=lambda path: report(
                path,
                caption="../report/item.rst",
                category="Figures",
                labels={"figure": "{experiment}"},
            ),
        ),
    log:
        log_of("figure"),
    benchmark:
        benchmark_of("figure")
    conda:
        environment("figure")
    threads: threads_of("figure")
    resources:
        **resources_of("figure"),
    params:
        script=lambda wc: entry("experiments", wc.experiment)["script"],
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        contents=lambda wc: contents_of("figure", wc, sheets_of(wc)),
        code=lambda wc: code(entry("experiments", wc.experiment)["script"]),
    script:
        "../../scripts/{params.script}.py"


rule explorer:
    input:
        unpack(files_of),
        assets=given(ASSETS),
    output:
        **outputs(
            "explorer",
            page=lambda path: report(
                path,
                caption="../report/item.rst",
                category="Report",
                labels={"page": "explorer of {experiment}"},
            ),
        ),
    log:
        log_of("explorer"),
    benchmark:
        benchmark_of("explorer")
    conda:
        environment("explorer")
    threads: threads_of("explorer")
    resources:
        **resources_of("explorer"),
    params:
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        contents=lambda wc: contents_of("explorer", wc, ASSETS),
        code=code("explorer"),
    script:
        "../../scripts/explorer.py"


rule report:
    input:
        tables=of_experiments(rules.table.output.html, makes("tables")),
        figures=of_experiments(rules.figure.output.png, makes("figures")),
        explorers=of_experiments(rules.explorer.output.page, explored()),
        runs=of_experiments(rules.collect_runs.output.runs, MADE),
        reported=given(REPORTED),
        assets=given(ASSETS),
        new_slides=reported_folders,
        explorer=reported_explorer,
    output:
        **outputs(
            "report",
            page=lambda path: report(
                path,
                caption="../report/page.rst",
                category="Report",
                labels={"page": "all items and their provenance"},
            ),
        ),
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        environment("report")
    threads: threads_of("report")
    resources:
        **resources_of("report"),
    params:
        tables=makes("tables"),
        figures=makes("figures"),
        explorers=explored(),
        experiments=[item(name) for name in MADE],
        absent=[item(name) for name in CONFIG["make"] if name not in MADE],
        config={
            key: value
            for key, value in CONFIG.items()
            if key not in ("root", "slides", "model", "verify")
        },
        contents=lambda wc: contents_of("report", wc, [REPORTED, *ASSETS]),
        code=code("report"),
    script:
        "../../scripts/report.py"
