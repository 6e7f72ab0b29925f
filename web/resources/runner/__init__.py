"""Endpoints of RWKV Runner's API."""
