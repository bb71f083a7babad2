"""Question answering about videos: annotations, scores, answerers, a chat endpoint and a judge, a journal."""
