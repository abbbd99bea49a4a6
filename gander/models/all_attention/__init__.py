"""GANs without a convolution: every operator is a linear layer, attention, or moves pixels.

`tokens` are the blocks, `styles` makes the w that modulates them out of a latent, `pixels` makes images of tokens; the generators
are `skinny`, `pyramid` and `swap`.
"""
