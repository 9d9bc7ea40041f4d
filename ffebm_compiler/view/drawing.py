def draw_graph(graph, path): raise NotImplementedError
