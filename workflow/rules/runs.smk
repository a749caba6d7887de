# One run: train on training slides, choose on validation slides, predict and score test slides.


rule train:
    input:
        features=lambda wc: features_of(wc, "train", "valid"),
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "train", "valid")
        ),
        patches=lambda wc: patches_of(wc, part(wc, "train", "valid")),
        targets=targets_of,
        backbone=backbone_of,
        parts=parts_of,
        panel=rules.select_panel.output.panel,
        split=rules.make_split.output.split,
        named=lambda wc: given(files_named("methods", wc.method)),
    output:
        **outputs("train"),
    log:
        log_of("train"),
    benchmark:
        benchmark_of("train")
    priority: 1
    conda:
        environment("train")
    threads: threads_of("train")
    resources:
        **resources_of("train"),
    params:
        method=lambda wc: plugin("methods", wc.method),
        inputs=lambda wc: {
            k: entry("methods", wc.method)[k]
            for k in ("encoder", "gene_model", "backbone")
            if k != "backbone" or entry("methods", wc.method).get(k)
        },
        traits=lambda wc: stated("methods", entry("methods", wc.method)),
        panel=lambda wc: entry("panels", wc.panel),
        checkpoint=f"{RESULTS}/{RUN}/checkpoint",
        threads=threads_of("train"),
        contents=lambda wc: contents_of("train", wc, files_named("methods", wc.method)),
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
        **outputs("predict"),
    log:
        log_of("predict"),
    benchmark:
        benchmark_of("predict")
    priority: 1
    conda:
        environment("predict")
    threads: threads_of("predict")
    resources:
        **resources_of("predict"),
    params:
        samples=SAMPLES,
        threads=threads_of("predict"),
        code=lambda wc: code("predict", entry("methods", wc.method)),
    script:
        "../../scripts/predict.py"


rule calibrate:
    input:
        model=rules.train.output.model,
        features=lambda wc: features_of(wc, "valid"),
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "valid")
        ),
        patches=lambda wc: patches_of(wc, part(wc, "valid")),
        split=rules.make_split.output.split,
    output:
        **outputs("calibrate"),
    log:
        log_of("calibrate"),
    benchmark:
        benchmark_of("calibrate")
    conda:
        environment("calibrate")
    threads: threads_of("calibrate")
    resources:
        **resources_of("calibrate"),
    params:
        samples=SAMPLES,
        patients=lambda wc: {row.id: row.patient for row in PLAN.rows(wc.cohort)},
        threads=threads_of("calibrate"),
        code=lambda wc: code("calibrate", entry("methods", wc.method)),
    script:
        "../../scripts/calibrate.py"


rule evaluate:
    input:
        predictions=lambda wc: of_slides(
            rules.predict.output.prediction, wc, part(wc, "test")
        ),
        truth=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "test")
        ),
        panel=rules.select_panel.output.panel,
        calibration=calibration_of,
    output:
        **outputs("evaluate"),
    log:
        log_of("evaluate"),
    benchmark:
        benchmark_of("evaluate")
    conda:
        environment("evaluate")
    threads: threads_of("evaluate")
    resources:
        **resources_of("evaluate"),
    params:
        metrics=metrics_of("evaluate"),
        panel=lambda wc: entry("panels", wc.panel),
        code=code("evaluate", *metrics_of("evaluate").values()),
    script:
        "../../scripts/evaluate.py"


# Apart from the other scores, so that only runs of which it is shown pay for scanpy.
rule evaluate_downstream:
    input:
        predictions=lambda wc: of_slides(
            rules.predict.output.prediction, wc, part(wc, "test")
        ),
        truth=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "test")
        ),
        panel=rules.select_panel.output.panel,
    output:
        **outputs("evaluate_downstream"),
    log:
        log_of("evaluate_downstream"),
    benchmark:
        benchmark_of("evaluate_downstream")
    conda:
        environment("evaluate_downstream")
    threads: threads_of("evaluate_downstream")
    resources:
        **resources_of("evaluate_downstream"),
    params:
        metrics=metrics_of("evaluate_downstream"),
        panel=lambda wc: entry("panels", wc.panel),
        code=code("evaluate_downstream", *metrics_of("evaluate_downstream").values()),
    script:
        "../../scripts/evaluate_downstream.py"
