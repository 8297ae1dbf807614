"""The base: a network that has heard and seen many people, from which every training starts."""
