"""Sparse autoencoders and transcoders: training, quality, descriptions of their features, files that peers read."""
