"""What a conversion reads of a model, and so has to be as it was at every call that follows."""
