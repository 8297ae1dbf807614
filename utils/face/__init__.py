"""Faces: where they are in a picture, which landmark is what, how pixels move between pictures."""
