"""What a block costs in energy, time and area."""
