# Tables and figures: one tidy table of scores an experiment, one small script an item, one page.


rule collect_scores:
    input:
        scores=lambda wc: of_runs(rules.evaluate.output.scores, wc.experiment),
    output:
        scores=f"{RESULTS}/experiments/{{experiment}}/scores.parquet",
    log:
        f"{RESULTS}/logs/collect_scores/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_scores/{{experiment}}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        code=code("collect_scores"),
    script:
        "../../scripts/collect_scores.py"


# Apart from the scores, so that what validation alone decides waits for no test slide.
rule collect_runs:
    input:
        runs=lambda wc: of_runs(rules.train.output.run, wc.experiment),
    output:
        runs=f"{RESULTS}/experiments/{{experiment}}/runs.parquet",
    log:
        f"{RESULTS}/logs/collect_runs/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_runs/{{experiment}}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        runs=lambda wc: run_keys(wc.experiment),
        code=code("collect_runs"),
    script:
        "../../scripts/collect_runs.py"


rule table:
    input:
        unpack(files_of),
        reported=REPORTED,
    output:
        csv=f"{RESULTS}/paper/tables/{{experiment}}.csv",
        tex=f"{RESULTS}/paper/tables/{{experiment}}.tex",
        md=f"{RESULTS}/paper/tables/{{experiment}}.md",
        html=report(
            f"{RESULTS}/paper/tables/{{experiment}}.html",
            caption="../report/item.rst",
            category="Tables",
            labels={"table": "{experiment}"},
        ),
    log:
        f"{RESULTS}/logs/table/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table/{{experiment}}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        script=lambda wc: entry("experiments", wc.experiment)["script"],
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        code=lambda wc: code(entry("experiments", wc.experiment)["script"]),
    script:
        "../../scripts/{params.script}.py"


rule figure:
    input:
        unpack(files_of),
        reported=REPORTED,
    output:
        csv=f"{RESULTS}/paper/figures/{{experiment}}.csv",
        pdf=f"{RESULTS}/paper/figures/{{experiment}}.pdf",
        png=report(
            f"{RESULTS}/paper/figures/{{experiment}}.png",
            caption="../report/item.rst",
            category="Figures",
            labels={"figure": "{experiment}"},
        ),
    log:
        f"{RESULTS}/logs/figure/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/{{experiment}}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        script=lambda wc: entry("experiments", wc.experiment)["script"],
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        code=lambda wc: code(entry("experiments", wc.experiment)["script"]),
    script:
        "../../scripts/{params.script}.py"


rule explorer:
    input:
        unpack(files_of),
        assets=ASSETS,
    output:
        page=report(
            f"{RESULTS}/report/explorer/{{experiment}}.html",
            caption="../report/item.rst",
            category="Report",
            labels={"page": "explorer of {experiment}"},
        ),
    log:
        f"{RESULTS}/logs/explorer/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/explorer/{{experiment}}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        item=lambda wc: item(wc.experiment),
        of=keys_of,
        code=code("explorer"),
    script:
        "../../scripts/explorer.py"


rule report:
    input:
        tables=of_experiments(rules.table.output.html, makes("tables")),
        figures=of_experiments(rules.figure.output.png, makes("figures")),
        explorers=of_experiments(rules.explorer.output.page, explored()),
        runs=of_experiments(rules.collect_runs.output.runs, MADE),
        reported=REPORTED,
        assets=ASSETS,
    output:
        page=report(
            f"{RESULTS}/report/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "all items and their provenance"},
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        tables=makes("tables"),
        figures=makes("figures"),
        explorers=explored(),
        experiments=[item(name) for name in MADE],
        absent=[item(name) for name in CONFIG["make"] if name not in MADE],
        config={key: value for key, value in CONFIG.items() if key != "root"},
        code=code("report"),
    script:
        "../../scripts/report.py"
