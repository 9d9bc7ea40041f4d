"""The suites of ``python -m benchmarks``: what time and memory BP-EP takes, as ratios of two things measured in one
run.
"""
