"""Nonlinear resistive networks: positive conductances, ideal diodes and bidirectional amplifiers."""
