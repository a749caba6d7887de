# Slides: where they are, spots and patches, image features. Splits and panels.


rule retrieve:
    input:
        lambda wc: given(PLAN.source(wc.cohort).inputs(wc.slide)),
    output:
        **outputs("retrieve"),
    log:
        log_of("retrieve"),
    benchmark:
        benchmark_of("retrieve")
    conda:
        environment("retrieve")
    threads: threads_of("retrieve")
    resources:
        **resources_of("retrieve"),
    params:
        source=lambda wc: plugin("cohorts", wc.cohort),
        root=lambda wc: CONFIG["root"],
        contents=lambda wc: contents_of(
            "retrieve", wc, PLAN.source(wc.cohort).inputs(wc.slide)
        ),
        directory=f"{RESULTS}/{{cohort}}/data/raw",
        code=lambda wc: code("retrieve", entry("cohorts", wc.cohort)),
    script:
        "../../scripts/retrieve.py"


rule check_cohort:
    input:
        manifests=lambda wc: of_slides(
            rules.retrieve.output.manifest, wc, PLAN.slides(wc.cohort)
        ),
        counts=lambda wc: given(corpus_counts(wc)),
        vocabularies=lambda wc: given(vocabularies_of(wc)),
    output:
        # Not removed before the job: finished slides that are made anew beside it have it as an input.
        **outputs("check_cohort", checked=update),
    log:
        log_of("check_cohort"),
    benchmark:
        benchmark_of("check_cohort")
    priority: 3  # all faults of all slides are told as early as possible
    conda:
        environment("check_cohort")
    threads: threads_of("check_cohort")
    resources:
        **resources_of("check_cohort"),
    params:
        panels=lambda wc: PLAN.panels(wc.cohort),
        fields=lambda wc: PLAN.fields(wc.cohort),
        contents=lambda wc: contents_of(
            "check_cohort", wc, [*corpus_counts(wc), *vocabularies_of(wc)]
        ),
        prepare=lambda wc: entry("cohorts", wc.cohort).get("prepare", {}),
        code=code("check_cohort"),
    script:
        "../../scripts/check_cohort.py"


rule prepare_slide:
    input:
        manifest=rules.retrieve.output.manifest,
        # All faults of all slides are told before the first is prepared.
        checked=lambda wc: gate(rules.check_cohort.output.checked, "prepare_slide", wc),
    output:
        **outputs("prepare_slide"),
    log:
        log_of("prepare_slide"),
    benchmark:
        benchmark_of("prepare_slide")
    conda:
        environment("prepare_slide")
    threads: threads_of("prepare_slide")
    resources:
        **resources_of("prepare_slide"),
    params:
        patient=lambda wc: PLAN.patient(wc.cohort, wc.slide),
        prepare=lambda wc: entry("cohorts", wc.cohort).get("prepare", {}),
        code=code("prepare_slide"),
    script:
        "../../scripts/prepare_slide.py"


# Patches of another field of view than the standard ones, for encoders whose entry says so.
rule cut_patches:
    input:
        manifest=rules.retrieve.output.manifest,
        spots=rules.prepare_slide.output.spots,
        # That a slide has an image to cut from is told before the first is cut.
        checked=lambda wc: gate(rules.check_cohort.output.checked, "cut_patches", wc),
    output:
        **outputs("cut_patches"),
    log:
        log_of("cut_patches"),
    benchmark:
        benchmark_of("cut_patches")
    conda:
        environment("cut_patches")
    threads: threads_of("cut_patches")
    resources:
        **resources_of("cut_patches"),
    params:
        code=code("cut_patches"),
    script:
        "../../scripts/cut_patches.py"


# Sections with counts and no image: some gene models learn from them, and nothing else does.
rule prepare_counts:
    input:
        raw=lambda wc: given(PLAN.source(wc.cohort).counts(wc.slide)),
    output:
        **outputs("prepare_counts"),
    log:
        log_of("prepare_counts"),
    benchmark:
        benchmark_of("prepare_counts")
    conda:
        environment("prepare_counts")
    threads: threads_of("prepare_counts")
    resources:
        **resources_of("prepare_counts"),
    params:
        patient=lambda wc: PLAN.patient(wc.cohort, wc.slide),
        prepare=lambda wc: {
            key: value
            for key, value in entry("cohorts", wc.cohort).get("prepare", {}).items()
            if key in ("min_counts", "unique_genes")
        },
        contents=lambda wc: contents_of(
            "prepare_counts", wc, [PLAN.source(wc.cohort).counts(wc.slide)]
        ),
        code=code("prepare_counts"),
    script:
        "../../scripts/prepare_counts.py"


rule make_split:
    output:
        **outputs("make_split"),
    log:
        log_of("make_split"),
    benchmark:
        benchmark_of("make_split")
    localrule: True
    conda:
        environment("make_split")
    threads: threads_of("make_split")
    resources:
        **resources_of("make_split"),
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
        vocabulary=lambda wc: given(vocabulary_of(wc)),
        named=lambda wc: given(gene_files(wc)),
    output:
        **outputs("select_panel"),
    log:
        log_of("select_panel"),
    benchmark:
        benchmark_of("select_panel")
    conda:
        environment("select_panel")
    threads: threads_of("select_panel")
    resources:
        **resources_of("select_panel"),
    params:
        panel=lambda wc: entry("panels", wc.panel),
        gene_models=lambda wc: [plugin("gene_models", n) for n in knows_genes(wc)],
        contents=lambda wc: contents_of(
            "select_panel", wc, [*filter(None, [vocabulary_of(wc)]), *gene_files(wc)]
        ),
        code=lambda wc: code(
            "select_panel", *(entry("gene_models", n) for n in knows_genes(wc))
        ),
    script:
        "../../scripts/select_panel.py"


rule fit_encoder:
    input:
        patches=lambda wc: seen_by_encoder(wc, part(wc, "train")),
        named=lambda wc: given(files_named("encoders", wc.encoder)),
    output:
        **outputs("fit_encoder"),
    log:
        log_of("fit_encoder"),
    benchmark:
        benchmark_of("fit_encoder")
    conda:
        environment("fit_encoder")
    threads: threads_of("fit_encoder")
    resources:
        **resources_of("fit_encoder"),
    params:
        encoder=lambda wc: plugin("encoders", wc.encoder),
        field=lambda wc: PLAN.field(wc.encoder),
        threads=threads_of("fit_encoder"),
        contents=lambda wc: contents_of(
            "fit_encoder", wc, files_named("encoders", wc.encoder)
        ),
        code=lambda wc: code("fit_encoder", entry("encoders", wc.encoder)),
    script:
        "../../scripts/fit_encoder.py"


rule encode_patches:
    input:
        spots=rules.prepare_slide.output.spots,
        patches=lambda wc: seen_by_encoder(wc, [wc.slide])[0],
        # Features of a fitted encoder lie under the split that it was fitted for: their scope.
        fitted=lambda wc: (
            rules.fit_encoder.output.model.format(**{**wc, "split": wc.scope})
            if entry("encoders", wc.encoder).get("fits")
            else []
        ),
        named=lambda wc: given(files_named("encoders", wc.encoder)),
    output:
        **outputs("encode_patches"),
    log:
        log_of("encode_patches"),
    benchmark:
        benchmark_of("encode_patches")
    conda:
        environment("encode_patches")
    threads: threads_of("encode_patches")
    resources:
        **resources_of("encode_patches"),
    params:
        encoder=lambda wc: plugin("encoders", wc.encoder),
        field=lambda wc: PLAN.field(wc.encoder),
        threads=threads_of("encode_patches"),
        contents=lambda wc: contents_of(
            "encode_patches", wc, files_named("encoders", wc.encoder)
        ),
        code=lambda wc: code("encode_patches", entry("encoders", wc.encoder)),
    script:
        "../../scripts/encode_patches.py"
