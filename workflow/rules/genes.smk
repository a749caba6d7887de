# Gene models: what training aligns to. Only training slides are ever embedded.


rule fit_gene_model:
    input:
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "train")
        ),
        corpus=corpus_files,
        panel=rules.select_panel.output.panel,
        split=rules.make_split.output.split,
        named=lambda wc: given(files_named("gene_models", wc.gene_model)),
    output:
        **outputs("fit_gene_model"),
    log:
        log_of("fit_gene_model"),
    benchmark:
        benchmark_of("fit_gene_model")
    priority: 2  # trainings that wait for them are the longest
    conda:
        environment("fit_gene_model")
    threads: threads_of("fit_gene_model")
    resources:
        **resources_of("fit_gene_model"),
    params:
        gene_model=lambda wc: plugin("gene_models", wc.gene_model),
        corpus=lambda wc: entry("gene_models", wc.gene_model).get("corpus", "train"),
        unit=lambda wc: entry("panels", wc.panel).get("transform", "log1p"),
        threads=threads_of("fit_gene_model"),
        contents=lambda wc: contents_of(
            "fit_gene_model", wc, files_named("gene_models", wc.gene_model)
        ),
        code=lambda wc: code("fit_gene_model", entry("gene_models", wc.gene_model)),
    script:
        "../../scripts/fit_gene_model.py"


rule embed_genes:
    input:
        spots=rules.prepare_slide.output.spots,
        panel=rules.select_panel.output.panel,
        fitted=lambda wc: (
            rules.fit_gene_model.output.model
            if entry("gene_models", wc.gene_model).get("fits")
            else []
        ),
        named=lambda wc: given(files_named("gene_models", wc.gene_model)),
    output:
        **outputs("embed_genes"),
    log:
        log_of("embed_genes"),
    benchmark:
        benchmark_of("embed_genes")
    priority: 2  # trainings that wait for them are the longest
    conda:
        environment("embed_genes")
    threads: threads_of("embed_genes")
    resources:
        **resources_of("embed_genes"),
    params:
        gene_model=lambda wc: plugin("gene_models", wc.gene_model),
        threads=threads_of("embed_genes"),
        contents=lambda wc: contents_of(
            "embed_genes", wc, files_named("gene_models", wc.gene_model)
        ),
        code=lambda wc: code("embed_genes", entry("gene_models", wc.gene_model)),
    script:
        "../../scripts/embed_genes.py"
