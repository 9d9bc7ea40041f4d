"""A trace by torch.fx that loses nothing: what the forward reads, writes, asks, opens and draws meanwhile.

    symbolic_trace  the tracer; proxies: what stands for a tensor
    whole_calls     traces again and again, until all that would be lost is in modules that are called as a whole
    state           what Python keeps between calls, noted and put back; state_writes: the line that writes or reads it
    draws, questions, opened_contexts, made_tensors, recorded_functions
                    what else the forward does that a graph would lose: kept, or refused by its line
    patching        how PyTorch is changed for all this, for one thread and a while
    copy_on_write   runs on the model's own weights that leave them as they were

What can't be kept is a :class:`..refusals.LosesMeaning` with the innermost module that was being traced.
"""
