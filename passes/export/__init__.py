"""A trace by torch.export, for forwards that torch.fx can't trace.

export_trace    the attempts, and the graph made one of the user's own layers and tensors
forward_watch   what the forward asks of tensors and assigns meanwhile
operators       casts and layers that stay one call; opened_regions: grad modes and autocast that don't
asked_sizes     which way the forward went by the sizes of its arguments, to which calls are held
"""
