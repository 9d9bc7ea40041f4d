def partition_graph(program, network): raise NotImplementedError
