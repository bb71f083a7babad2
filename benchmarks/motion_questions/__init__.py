"""Questions that only motion answers: videos of known motion, and tiny language models that are asked about them."""
