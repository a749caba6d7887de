"""The report: one page that holds every table, every figure and where they come from."""
