"""Tables and figures: from tidy scores and predictions to what a paper prints."""
