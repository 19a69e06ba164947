"""Walks through worlds over HTTP: the wire format, what is read, moves as streams, and the routes."""
