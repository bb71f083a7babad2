"""Question answering about videos: annotations, answerers, scores"""
