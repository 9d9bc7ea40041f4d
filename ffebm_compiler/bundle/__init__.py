"""The compiled bundle: what is in it, how it is written and how it is read from anyone."""
