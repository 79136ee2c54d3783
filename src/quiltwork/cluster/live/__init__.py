"""The cluster in the real world: a controller over machines that run workers.

``host.open_host`` puts one together; a ``desk.Desk`` is what users ask. What is decided is the scheduler's
(``cluster.scheduler``); here it is written down (``store``), carried out (``reconcile``, ``hands``, a ``Backend``)
and followed (``controller``). Nothing is imported here: what keeps a worker runs with Python's own library alone.
"""
