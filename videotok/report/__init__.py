"""Pages and pictures that show what videotok does: motion, tokens, quality."""
