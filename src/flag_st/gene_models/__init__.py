"""Gene foundation models: one file and one entry of config/gene_models.yaml each."""
