"""The fallback for machines that cannot use the Python runtime that is published: build it from npm's `pyodide`.

Development and tests only. A machine with a network takes the bundle that Cloudflare publishes, if it ends in a Worker
that answers (`online.py`; `mode.py` decides), and a deployed Worker runs on Cloudflare's own runtime. Removing this
folder and its three callers removes the fallback.
"""
