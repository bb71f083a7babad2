"""The published Video-LaVIT weights: their files, their sizes, and what only they need"""
