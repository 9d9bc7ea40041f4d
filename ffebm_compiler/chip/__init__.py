"""An analog chip: what it is made of, how a block settles and learns on it, its circuits, what it costs."""
