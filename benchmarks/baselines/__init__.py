"""What a training step is compared with: each reads only a block's energy, and shares no solver with the library."""
