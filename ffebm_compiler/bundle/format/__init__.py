"""What stands in a bundle, as data: documents and their schemas, tensors, graphs, and the container."""
