# One run: train on training slides, choose on validation slides, predict and score test slides.


rule train:
    input:
        features=lambda wc: features_of(wc, "train", "valid"),
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "train", "valid")
        ),
        patches=lambda wc: patches_of(wc, part(wc, "train", "valid")),
        targets=targets_of,
        panel=rules.select_panel.output.panel,
        split=rules.make_split.output.split,
    output:
        model=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/model.safetensors",
        history=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/history.csv",
        run=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/run.json",
    log:
        f"{RESULTS}/logs/train/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}.tsv"
    priority: 1
    conda:
        environment("methods", "method", "torch")
    threads: cost("methods", "method", "threads", 1)
    resources:
        gpu=cost("methods", "method", "gpu", 0),
        mem_mb=cost("methods", "method", "mem_mb", 8000),
        runtime=cost("methods", "method", "runtime", 60),
    params:
        method=lambda wc: plugin("methods", wc.method),
        inputs=lambda wc: {
            k: entry("methods", wc.method)[k] for k in ("encoder", "gene_model")
        },
        panel=lambda wc: entry("panels", wc.panel),
        checkpoint=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/checkpoint",
        threads=lambda wc: entry("methods", wc.method).get("threads", 1),
        code=lambda wc: code("train", entry("methods", wc.method)),
    script:
        "../../scripts/train.py"


rule predict:
    input:
        model=rules.train.output.model,
        features=lambda wc: of_slides(
            rules.encode_patches.output.features,
            wc,
            [wc.slide],
            encoder=entry("methods", wc.method)["encoder"],
            scope=scope(entry("methods", wc.method)["encoder"], wc.split),
        ),
        patches=lambda wc: patches_of(wc, [wc.slide]),
        # The truth is within reach of declared controls alone.
        truth=lambda wc: (
            rules.prepare_slide.output.spots
            if entry("methods", wc.method).get("needs_truth")
            else []
        ),
    output:
        prediction=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/predictions/{{slide}}.h5ad",
        run=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/predictions/{{slide}}.run.json",
    log:
        f"{RESULTS}/logs/predict/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/{{slide}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/{{slide}}.tsv"
    priority: 1
    conda:
        environment("methods", "method", "torch")
    threads: cost("methods", "method", "threads", 1)
    resources:
        gpu=cost("methods", "method", "gpu", 0),
        mem_mb=cost("methods", "method", "mem_mb", 8000),
        runtime=cost("methods", "method", "runtime", 60),
    params:
        samples=SAMPLES,
        threads=lambda wc: entry("methods", wc.method).get("threads", 1),
        code=lambda wc: code("predict", entry("methods", wc.method)),
    script:
        "../../scripts/predict.py"


rule evaluate:
    input:
        predictions=lambda wc: of_slides(
            rules.predict.output.prediction, wc, part(wc, "test")
        ),
        truth=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "test")
        ),
        panel=rules.select_panel.output.panel,
    output:
        scores=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}/scores.parquet",
    log:
        f"{RESULTS}/logs/evaluate/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{cohort}}/{{split}}/{{panel}}/{{method}}/seed{{seed}}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        metrics={name: plugin("metrics", name) for name in METRICS},
        panel=lambda wc: entry("panels", wc.panel),
        code=code("evaluate", *(entry("metrics", name) for name in METRICS)),
    script:
        "../../scripts/evaluate.py"
