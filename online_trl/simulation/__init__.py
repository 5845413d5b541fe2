"""
Simulated users with a hidden taste, the small world they ask about, and a small policy that lives in it.

For the demo, the tests and the benchmarks, nothing else: they talk to the system as people would, over HTTP, and no
part of the product imports them.
"""
