"""What a traced graph says of the model, and how it is rewritten: names, types, writes, draws, views, contexts."""
