"""What the claims about speed rest on. Not installed: `make bench` runs all of it from the repository."""
