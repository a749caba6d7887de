# Slides without counts, predicted by an exported model: one folder of files per slide.


rule check_slides:
    input:
        model=lambda wc: CONFIG["model"] or [],
        images=lambda wc: [str(request.path) for request in NEW_SLIDES.values()],
    output:
        **outputs("check_slides"),
    log:
        log_of("check_slides"),
    benchmark:
        benchmark_of("check_slides")
    conda:
        environment("check_slides")
    threads: threads_of("check_slides")
    resources:
        **resources_of("check_slides"),
    params:
        slides=[request.as_params() for request in NEW_SLIDES.values()],
        code=code("check_slides"),
    script:
        "../../scripts/check_slides.py"


rule predict_slide:
    input:
        model=lambda wc: CONFIG["model"] or [],
        image=lambda wc: str(NEW_SLIDES[wc.slide].path),
        at=lambda wc: str(NEW_SLIDES[wc.slide].at) if NEW_SLIDES[wc.slide].at else [],
        # All faults of all slides are told before the first is predicted; a new slide in the sheet
        # does not predict the others anew.
        checked=ancient(rules.check_slides.output.checked),
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
        threads=threads_of("predict_slide"),
        code=model_code("predict_slide"),
    script:
        "../../scripts/predict_slide.py"


rule predict_slides:
    input:
        predicted_folders,
    localrule: True
