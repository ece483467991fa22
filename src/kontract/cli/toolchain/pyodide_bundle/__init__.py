"""The fallback for machines that cannot download workerd's Python runtime: build it from npm's `pyodide`.

Development and tests only. A machine with a network goes Cloudflare's way (`mode.py` decides), and a deployed Worker
runs on Cloudflare's own runtime. Removing this folder and its three callers removes the fallback.
"""
