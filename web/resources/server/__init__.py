"""Endpoints that tell about the server itself."""
