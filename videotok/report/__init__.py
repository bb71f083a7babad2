"""Pages and pictures that show what videotok did."""
