"""The cluster in the real world: the hands that start and stop workers, and the memory of what was decided.

``backend.py`` says what a controller may ask of machines, ``local.py`` and ``ray_backend.py`` do it, ``store.py``
remembers. Nothing here decides: that is ``policy``'s.
"""
