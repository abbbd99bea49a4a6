"""Networks: one story a file, generator and discriminator together.

generator(latent, labels=None) -> images in [-1, 1], with `.latent_dim`, `.num_classes`, `.resolution`;
discriminator(images, labels=None) -> logits (b,). A network knows nothing of losses, devices, files or data sets.
"""
