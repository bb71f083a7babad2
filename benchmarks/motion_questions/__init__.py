"""Questions that only motion answers: clips of known motion, and the tiny language models that are asked about them."""
