"""Music as the text of the MIDI models, and as MIDI files: `writer.py` makes a file of a text,
`reader.py` and `transcript.py` a text of a file, both as RWKV Runner does, bit for bit.

Pure functions on text and bytes: nothing here knows of HTTP or of files on a disk.
"""
