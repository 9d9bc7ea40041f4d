"""Gathers a model's bundle: what its programs, graphs and pages are, checked before anything is written."""
