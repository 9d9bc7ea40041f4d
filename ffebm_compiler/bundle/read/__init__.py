"""Reads a bundle that anyone may have written."""
