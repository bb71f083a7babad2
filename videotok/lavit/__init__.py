"""The published Video-LaVIT weights: their files, their models, and their conversion to a bundle."""
