"""Gene foundation models: each is a class here and an entry of config/gene_models.yaml."""
