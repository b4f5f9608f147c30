"""Who comes in and what they may do: login, roles, headers, and the audit rows of requests."""
