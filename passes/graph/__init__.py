"""What a traced graph says of the model, and how it is rewritten. Nothing here runs a forward.

names           the user's layer, function and line of a call; paths in their model
value_types     whether a value will be a tensor, a size, a number
effects         what a call writes, draws and runs besides returning a result
aliases         which values share memory
contexts        the grad mode and autocast that a call stands in
regions         what those mean: detached values, calls under their own autocast
in_place        in-place calls become out-of-place ones; in_place_twins: by which function
overwritten     tensors that the model overwrites as it runs
"""
