"""A trained method as one file that holds all that the prediction of a new slide needs."""
