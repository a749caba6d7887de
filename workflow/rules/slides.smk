# Slides without counts, predicted by an exported model: one folder of files per slide.


rule export_model:
    input:
        run=rules.train.output.run,
        model=rules.train.output.model,
        # The number of draws is that of the run's own predictions.
        predictions=lambda wc: of_slides(
            rules.predict.output.prediction, wc, part(wc, "test")
        ),
    output:
        **outputs("export_model"),
    log:
        log_of("export_model"),
    benchmark:
        benchmark_of("export_model")
    conda:
        environment("export_model")
    threads: threads_of("export_model")
    resources:
        **resources_of("export_model"),
    params:
        threads=threads_of("export_model"),
        licence=lambda wc: entry("cohorts", wc.cohort).get("licence", ""),
        code=lambda wc: code("export_model", *exported_plugins(wc.method)),
    script:
        "../../scripts/export_model.py"


rule paint_slide:
    output:
        **outputs("paint_slide"),
    log:
        log_of("paint_slide"),
    benchmark:
        benchmark_of("paint_slide")
    conda:
        environment("paint_slide")
    threads: threads_of("paint_slide")
    resources:
        **resources_of("paint_slide"),
    params:
        source=lambda wc: plugin("cohorts", wc.cohort),
        code=lambda wc: code("paint_slide", entry("cohorts", wc.cohort)),
    script:
        "../../scripts/paint_slide.py"


rule check_slides:
    input:
        model=lambda wc: given(CONFIG["model"] or []),
        images=lambda wc: given([image_of(name) for name in NEW_SLIDES]),
    output:
        **outputs("check_slides", checked=update),  # as that of check_cohort
    log:
        log_of("check_slides"),
    benchmark:
        benchmark_of("check_slides")
    priority: 3  # all faults of all slides are told as early as possible
    conda:
        environment("check_slides")
    threads: threads_of("check_slides")
    resources:
        **resources_of("check_slides"),
    params:
        slides=[request.as_params() for request in NEW_SLIDES.values()],
        contents=lambda wc: contents_of("check_slides", wc, read_of_slides(NEW_SLIDES)),
        code=code("check_slides"),
    script:
        "../../scripts/check_slides.py"


rule predict_slide:
    input:
        model=lambda wc: given(CONFIG["model"] or []),
        image=lambda wc: given(image_of(wc.slide)),
        at=lambda wc: given(NEW_SLIDES[wc.slide].at or []),
        gene_sets=lambda wc: given(NEW_SLIDES[wc.slide].gene_sets or []),
        mask=lambda wc: given(NEW_SLIDES[wc.slide].mask_file or []),
        # All faults of all slides are told before the first is predicted.
        checked=lambda wc: gate(rules.check_slides.output.checked, "predict_slide", wc),
    output:
        **outputs("predict_slide", folder=directory),
    log:
        log_of("predict_slide"),
    benchmark:
        benchmark_of("predict_slide")
    conda:
        environment("predict_slide")
    threads: threads_of("predict_slide")
    resources:
        **resources_of("predict_slide"),
    params:
        slide=lambda wc: NEW_SLIDES[wc.slide].as_params(),
        contents=lambda wc: contents_of("predict_slide", wc, read_of_slides([wc.slide])),
        threads=threads_of("predict_slide"),
        code=model_code("predict_slide"),
    script:
        "../../scripts/predict_slide.py"


rule join_slides:
    input:
        folders=predicted_folders,
        assets=given(ASSETS),
    output:
        **outputs("join_slides"),
    log:
        log_of("join_slides"),
    benchmark:
        benchmark_of("join_slides")
    conda:
        environment("join_slides")
    threads: threads_of("join_slides")
    resources:
        **resources_of("join_slides"),
    params:
        contents=lambda wc: contents_of("join_slides", wc, ASSETS),
        code=code("join_slides"),
    script:
        "../../scripts/join_slides.py"


rule predict_slides:
    input:
        # Named themselves, so that a folder that was deleted is made again.
        predicted_folders,
        rules.join_slides.output,
        rules.check_slides.output.checked,
    localrule: True
