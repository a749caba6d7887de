"""The paper's tables and figures: what they know, and the rooms that make each kind."""
