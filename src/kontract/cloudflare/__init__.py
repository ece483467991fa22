"""Adapters for workerd: everything that knows Cloudflare, and nothing that the server needs."""
