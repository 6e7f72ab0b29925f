"""What the files of checkpoints look like: one module per container, one for the names inside.

Called by checkpoint.py, which is the door; convert.py and state.py write through it. Nothing here
runs code from a file or reads tensor bytes, tensor.py's Tensor.to_numpy aside.
"""
