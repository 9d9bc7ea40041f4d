"""Commands that do whole jobs with ffebm_compiler, and the small modules that they share."""
