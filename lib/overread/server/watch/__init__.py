"""What tells whoever looks after the server how it is: `/healthz` and `/metrics`."""
