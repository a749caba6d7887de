# Slides: where they are, spots and patches, image features. Splits and panels.


rule retrieve:
    input:
        lambda wc: PLAN.source(wc.cohort).inputs(wc.slide),
    output:
        manifest=f"{RESULTS}/{{cohort}}/data/sources/{{slide}}.json",
    log:
        f"{RESULTS}/logs/retrieve/{{cohort}}/{{slide}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/retrieve/{{cohort}}/{{slide}}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(2000),
        runtime=grown(120),
    params:
        source=lambda wc: plugin("cohorts", wc.cohort),
        root=lambda wc: CONFIG["root"],
        directory=f"{RESULTS}/{{cohort}}/data/raw",
        code=lambda wc: code("retrieve", entry("cohorts", wc.cohort)),
    script:
        "../../scripts/retrieve.py"


rule check_cohort:
    input:
        manifests=lambda wc: of_slides(
            rules.retrieve.output.manifest, wc, PLAN.slides(wc.cohort)
        ),
    output:
        checked=f"{RESULTS}/{{cohort}}/data/checked.json",
    log:
        f"{RESULTS}/logs/check_cohort/{{cohort}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_cohort/{{cohort}}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(60),
    params:
        panels=lambda wc: panels_of(wc.cohort),
        prepare=lambda wc: entry("cohorts", wc.cohort).get("prepare", {}),
        code=code("check_cohort"),
    script:
        "../../scripts/check_cohort.py"


rule prepare_slide:
    input:
        manifest=rules.retrieve.output.manifest,
        # All faults of all slides are told before the first is prepared; a new slide in the
        # cohort does not make the others anew.
        checked=ancient(rules.check_cohort.output.checked),
    output:
        spots=f"{RESULTS}/{{cohort}}/data/slides/{{slide}}/spots.h5ad",
        patches=f"{RESULTS}/{{cohort}}/data/slides/{{slide}}/patches.h5",
    log:
        f"{RESULTS}/logs/prepare_slide/{{cohort}}/{{slide}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_slide/{{cohort}}/{{slide}}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        patient=lambda wc: PLAN.patient(wc.cohort, wc.slide),
        prepare=lambda wc: entry("cohorts", wc.cohort).get("prepare", {}),
        code=code("prepare_slide"),
    script:
        "../../scripts/prepare_slide.py"


rule make_split:
    output:
        split=f"{RESULTS}/{{cohort}}/{{split}}/split.json",
    log:
        f"{RESULTS}/logs/make_split/{{cohort}}/{{split}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_split/{{cohort}}/{{split}}.tsv"
    localrule: True
    conda:
        "../../envs/data.yaml"
    params:
        split=lambda wc: PLAN.split(wc.cohort, wc.split).as_dict(),
        patients=lambda wc: {row.id: row.patient for row in PLAN.rows(wc.cohort)},
    script:
        "../../scripts/make_split.py"


rule select_panel:
    input:
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, PLAN.slides(wc.cohort)
        ),
        split=rules.make_split.output.split,
    output:
        panel=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/panel.parquet",
    log:
        f"{RESULTS}/logs/select_panel/{{cohort}}/{{split}}/{{panel}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/select_panel/{{cohort}}/{{split}}/{{panel}}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(16000),
        runtime=grown(60),
    params:
        panel=lambda wc: entry("panels", wc.panel),
        code=code("select_panel"),
    script:
        "../../scripts/select_panel.py"


rule fit_encoder:
    input:
        patches=lambda wc: of_slides(
            rules.prepare_slide.output.patches, wc, part(wc, "train")
        ),
    output:
        model=f"{RESULTS}/{{cohort}}/{{split}}/features/{{encoder}}/model.safetensors",
    log:
        f"{RESULTS}/logs/fit_encoder/{{cohort}}/{{split}}/{{encoder}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_encoder/{{cohort}}/{{split}}/{{encoder}}.tsv"
    conda:
        environment("encoders", "encoder", "encode")
    threads: cost("encoders", "encoder", "threads", 1)
    resources:
        gpu=cost("encoders", "encoder", "gpu", 0),
        mem_mb=cost("encoders", "encoder", "mem_mb", 8000),
        runtime=cost("encoders", "encoder", "runtime", 120),
    params:
        encoder=lambda wc: plugin("encoders", wc.encoder),
        threads=lambda wc: entry("encoders", wc.encoder).get("threads", 1),
        code=lambda wc: code("fit_encoder", entry("encoders", wc.encoder)),
    script:
        "../../scripts/fit_encoder.py"


rule encode_patches:
    input:
        spots=rules.prepare_slide.output.spots,
        patches=rules.prepare_slide.output.patches,
        # Features of a fitted encoder lie under the split that it was fitted for: their scope.
        fitted=lambda wc: (
            rules.fit_encoder.output.model.format(**{**wc, "split": wc.scope})
            if entry("encoders", wc.encoder).get("fits")
            else []
        ),
    output:
        features=f"{RESULTS}/{{cohort}}/{{scope}}/features/{{encoder}}/{{slide}}.h5ad",
    log:
        f"{RESULTS}/logs/encode_patches/{{cohort}}/{{scope}}/{{encoder}}/{{slide}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/encode_patches/{{cohort}}/{{scope}}/{{encoder}}/{{slide}}.tsv"
    conda:
        environment("encoders", "encoder", "encode")
    threads: cost("encoders", "encoder", "threads", 1)
    resources:
        gpu=cost("encoders", "encoder", "gpu", 0),
        mem_mb=cost("encoders", "encoder", "mem_mb", 8000),
        runtime=cost("encoders", "encoder", "runtime", 120),
    params:
        encoder=lambda wc: plugin("encoders", wc.encoder),
        threads=lambda wc: entry("encoders", wc.encoder).get("threads", 1),
        code=lambda wc: code("encode_patches", entry("encoders", wc.encoder)),
    script:
        "../../scripts/encode_patches.py"
