"""Files that clients send: taken out of a request (`uploads.py`), and read as text in a process of
its own (`documents.py`, whose child runs `document_reader_child.py`). Files of the workspace that
they name (`workspace_files.py`).
"""
