"""Writes what a bundle holds, whole or not at all."""
