"""The web application: HTTP, chat and files over `rwkv_native`. Start reading at `web/app.py`.

Importing this package imports nothing else: the command line must start fast.
"""
