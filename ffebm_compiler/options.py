from typing import Any
def check_options(model, block_size, options):
    options=dict(options); options["block_size"]=block_size if options.get("block_sizes") is None else None
    if options["block_size"] is None and options.get("block_sizes") is None: options["block_size"]=2
    for k,v in dict(block_sizes=None,digital=(),analog=(),norm="auto",example_inputs=None,rules=()).items(): options.setdefault(k,v)
    return options
def split_examples(ex):
    if ex is None: return None,None
    if isinstance(ex,dict): return (),ex
    if isinstance(ex,(tuple,list)): return tuple(ex),None
    return (ex,),None
