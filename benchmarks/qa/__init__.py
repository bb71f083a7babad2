"""Question answering about videos: annotations, protocols, scores, answerers, a chat endpoint, a journal."""
