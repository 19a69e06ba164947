"""The computing side of the server: requests, their events, the models; it knows no HTTP."""
