"""New slides: images without counts, where spots may be placed on them, and whether to trust a prediction."""
