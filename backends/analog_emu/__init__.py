"""The analog emulator: energy-based blocks that settle on an emulated chip."""
