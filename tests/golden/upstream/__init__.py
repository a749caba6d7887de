"""One module per repository of a method's authors, each with ``REPOSITORY``, ``COMMIT`` and ``make``.

``make`` builds our network from ``golden.fill``, gives the authors' network the same weights, runs
it, and returns a ``golden.Golden``. None of the authors' code is copied here.
"""
