"""Runs and trains a compiled bundle without the model's code."""
