"""Where slides come from: one file and one cohort entry each."""
