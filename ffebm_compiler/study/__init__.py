"""Sweeps over hardware specifications."""
