"""How a block settles and learns on a chip."""
