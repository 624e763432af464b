"""Images: CIFAR-100 and a synthetic stand-in, their augmentation, and batches of them."""
