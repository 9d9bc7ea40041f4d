"""A trace by torch.export, for forwards that torch.fx can't trace."""
