"""The only room that imports monailabel or fastapi: adapters, writers for each client, hardening."""
