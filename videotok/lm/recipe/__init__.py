"""The recipe of the shipped language model: material, documents, and the two stages of its training."""
