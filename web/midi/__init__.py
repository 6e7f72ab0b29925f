"""Music as the text of the MIDI models, and as MIDI files: `writer.py` makes a file of a text,
`reader.py` and `transcript.py` a text of a file, both as RWKV Runner does, bit for bit: pure
functions on text and bytes, which `conversion.py` runs for requests. `sound.py` makes a WAV of a
file. Both have processes of their own: `converter_child.py` and `renderer_child.py`.
"""
