"""What the four scripts share. Nothing here knows a script."""
