"""A trace by torch.fx that loses nothing: what the forward reads, writes, asks, opens and draws meanwhile."""
