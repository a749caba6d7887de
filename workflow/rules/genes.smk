# Gene models: what training aligns to. Only training slides are ever embedded.


rule fit_gene_model:
    input:
        spots=lambda wc: of_slides(
            rules.prepare_slide.output.spots, wc, part(wc, "train")
        ),
        panel=rules.select_panel.output.panel,
    output:
        model=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/targets/{{gene_model}}/model.safetensors",
    log:
        f"{RESULTS}/logs/fit_gene_model/{{cohort}}/{{split}}/{{panel}}/{{gene_model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_gene_model/{{cohort}}/{{split}}/{{panel}}/{{gene_model}}.tsv"
    conda:
        environment("gene_models", "gene_model", "torch")
    threads: cost("gene_models", "gene_model", "threads", 1)
    resources:
        gpu=cost("gene_models", "gene_model", "gpu", 0),
        mem_mb=cost("gene_models", "gene_model", "mem_mb", 8000),
        runtime=cost("gene_models", "gene_model", "runtime", 120),
    params:
        gene_model=lambda wc: plugin("gene_models", wc.gene_model),
        threads=lambda wc: entry("gene_models", wc.gene_model).get("threads", 1),
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
    output:
        targets=f"{RESULTS}/{{cohort}}/{{split}}/{{panel}}/targets/{{gene_model}}/{{slide}}.h5",
    log:
        f"{RESULTS}/logs/embed_genes/{{cohort}}/{{split}}/{{panel}}/{{gene_model}}/{{slide}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/embed_genes/{{cohort}}/{{split}}/{{panel}}/{{gene_model}}/{{slide}}.tsv"
    conda:
        environment("gene_models", "gene_model", "torch")
    threads: cost("gene_models", "gene_model", "threads", 1)
    resources:
        gpu=cost("gene_models", "gene_model", "gpu", 0),
        mem_mb=cost("gene_models", "gene_model", "mem_mb", 8000),
        runtime=cost("gene_models", "gene_model", "runtime", 120),
    params:
        gene_model=lambda wc: plugin("gene_models", wc.gene_model),
        threads=lambda wc: entry("gene_models", wc.gene_model).get("threads", 1),
        code=lambda wc: code("embed_genes", entry("gene_models", wc.gene_model)),
    script:
        "../../scripts/embed_genes.py"
