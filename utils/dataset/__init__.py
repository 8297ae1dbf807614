"""What the network is fed: the prepared clip, its references, augmentation and batches."""
