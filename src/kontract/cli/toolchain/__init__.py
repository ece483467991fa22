"""What `kontract dev` and the tests need on a machine: Node, vendored packages, PostgreSQL, wrangler.

Nothing here is part of the Worker or of the self-hosted server; both run without this package.
"""
