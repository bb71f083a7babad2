"""A keyframe tokenizer small enough for tests: 64 patches, 128 words."""

SIZES = dict(
    image_size=64,
    patch_size=8,
    width=32,
    depth=2,
    heads=2,
    hidden=64,
    merger_depth=2,
    codebook_size=128,
    code_dim=8,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=2,
    decoder_hidden=64,
    cells=4,
    cell_width=8,
)
