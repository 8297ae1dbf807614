"""The network and its losses. Tensors only: nothing here knows a file or a script."""
