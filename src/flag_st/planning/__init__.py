"""What a configuration stands for, before anything runs."""
